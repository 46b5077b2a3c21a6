# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The examples of the report: which images, and their panels."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from ..coco.index import GroundTruth
from ..data.image_file import read_picture
from ..errors import DataError
from ..visualization.judged import Item, draw_items
from .analysis import Analysis
from .calibration import choose_examples
from .error_kinds import CLS, FALSE_KINDS, IGNORED, RIGHT

__all__ = ["LEGEND", "TAGS", "Example", "Panel", "make_examples"]

TAGS = {"cls": "Cls", "loc": "Loc", "both": "Both", "dup": "Dup", "bkg": "Bkg"}
LEGEND = [
    ("truth", "truth"),
    ("right", "right"),
    ("cls", "Cls: wrong class"),
    ("loc", "Loc: badly placed"),
    ("both", "Both: class and place wrong"),
    ("dup", "Dup: found twice"),
    ("bkg", "Bkg: nothing there"),
    ("miss", "missed"),
    ("crowd", "crowd, or a box without mask: not counted"),
]
_MANY = 40  # instances above which the truth is not labelled
_BLANK = 236
_MOST_PIXELS = 2 * 89_478_485  # above which Pillow does not read a picture, either


@dataclass
class Panel:
    """uint8 (H, W, 3) RGB and what it shows."""

    title: str
    note: str
    picture: np.ndarray


@dataclass
class Example:
    """One image.

    Attributes:
        rank: "worst" or "best".
        number: from 1.
        panels: image, truth, then each result file.
        kinds: those of LEGEND that are to be seen.
    """

    rank: str
    number: int
    image_id: int
    file_name: str
    panels: list[Panel]
    kinds: set[str]


def make_examples(
    truth: GroundTruth, analyses: list[Analysis], number: int, task: str, progress=None
) -> tuple[list[Example], list[str]]:
    """Draw the worst and the best images.

    Returns:
        the examples, and what is wrong with images that cannot be read or have another size: those
        are drawn on a plain ground.

    Raises:
        DataError: this is so for every one of them; names the first one's file and id.
    """
    low, high = choose_examples([a.image_counts for a in analyses], number)
    chosen = [("worst", n, image) for n, image in enumerate(low, 1)]
    chosen += [("best", n, image) for n, image in enumerate(high, 1)]
    pictures, problems = {}, []
    for image in dict.fromkeys([*low, *high]):
        try:
            pictures[image] = _read(truth, image)
        except DataError as error:
            problems.append(str(error))
            if len(problems) == len({*low, *high}):
                raise
            pictures[image] = _blank(truth.size(image))
    examples = []
    for index, (rank, place, image) in enumerate(chosen):
        if progress is not None:
            progress("drawing", index, len(chosen))
        examples.append(_example(truth, analyses, rank, place, image, task, pictures[image]))
    return examples, problems


def _example(
    truth: GroundTruth,
    analyses: list[Analysis],
    rank: str,
    place: int,
    number: int,
    task: str,
    image: np.ndarray,
) -> Example:
    wanted = [entry for entry in truth.objects if entry["image_id"] == number]
    items = [
        Item(
            "crowd" if entry["iscrowd"] else "truth",
            "" if len(wanted) > _MANY else _class_name(truth, entry),
            entry["bbox"],
            truth.rle(entry) if task == "segm" else None,
        )
        for entry in wanted
    ]
    count = sum(not entry["iscrowd"] for entry in wanted)
    kinds = {item.kind for item in items}
    panels = [
        Panel("image", "", draw_items(image, [])),
        Panel("truth", f"{count} object" + "s" * (count != 1), draw_items(image, items)),
    ]
    for analysis in analyses:
        found = _judged(truth, analysis, number, task)
        kinds |= {item.kind for item in found}
        counts = analysis.image_counts[number]
        note = f"{counts['tp']} right, {counts['fp']} wrong, {counts['fn']} missed"
        panels.append(Panel(analysis.name, note, draw_items(image, found)))
    file_name = str(truth.images[number - 1].get("file_name", ""))
    return Example(rank, place, truth.image_ids[number - 1], file_name, panels, kinds)


def _class_name(truth: GroundTruth, entry: dict) -> str:
    """Empty for the only class there is: its name on every object would say nothing."""
    return truth.class_names[entry["category_id"] - 1] if len(truth.categories) > 1 else ""


def _judged(truth: GroundTruth, analysis: Analysis, number: int, task: str) -> list[Item]:
    """Detections above the threshold, and what they missed."""
    threshold = analysis.point.threshold
    out = []
    for row, entry in enumerate(analysis.entries):
        kind = int(analysis.kinds.kind[row])
        if entry["image_id"] != number or entry["score"] < threshold or kind == IGNORED:
            continue
        name = "right" if kind == RIGHT else FALSE_KINDS[kind - CLS]
        label = ""
        if kind != RIGHT:
            words = [TAGS[name], _class_name(truth, entry)]
            label = " ".join([w for w in words if w] + [f"{100 * entry['score']:.0f}"])
        record = entry["record"]
        mask = record["segmentation"] if task == "segm" else None
        out.append(Item(name, label, record["bbox"], mask))
    for row, entry in enumerate(truth.objects):
        if entry["image_id"] != number or entry["iscrowd"]:
            continue
        found = analysis.matches.detection_id[row]
        if not found or analysis.entries[found - 1]["score"] < threshold:
            mask = truth.rle(entry) if task == "segm" else None
            out.append(Item("miss", _class_name(truth, entry), entry["bbox"], mask))
    return out


def _read(truth: GroundTruth, number: int) -> np.ndarray:
    image_id, size, file = truth.image_ids[number - 1], truth.size(number), truth.image_file(number)
    if file is None:
        return _blank(size)
    if os.path.exists(file) and not os.path.isfile(file):  # reading a pipe would never end
        raise DataError(f"image {image_id}: {file} is no file.")
    try:
        image = read_picture(str(file))
    except Exception as error:  # Pillow raises many kinds
        raise DataError(f"image {image_id}: {file} cannot be read: {error}.") from error
    if image.shape[:2] != size:
        raise DataError(
            f"image {image_id}: {file} has (height, width) {image.shape[:2]}, the annotations say "
            f"{size}."
        )
    return image


def _blank(size: tuple[int, int]) -> np.ndarray:
    if size[0] * size[1] > _MOST_PIXELS:
        raise DataError(
            f"an image of {size[1]} x {size[0]} pixels is too large to draw; --examples 0 leaves the "
            "pictures out."
        )
    return np.full((*size, 3), _BLANK, dtype=np.uint8)
