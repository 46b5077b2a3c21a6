# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The examples of the report: which images, and their panels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from detectron2.data.detection_utils import read_image

from ..errors import DataError
from ..visualization.judged import Item, draw_items
from .analysis import Analysis
from .calibration import choose_examples
from .error_kinds import CLS, FALSE_KINDS, IGNORED, RIGHT
from .load import GroundTruth

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
    ("crowd", "crowd, not counted"),
]
_MANY = 40  # instances above which the truth is not labelled
_BLANK = 236


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
) -> list[Example]:
    """Draw the worst and the best images.

    Raises:
        DataError: an image cannot be read or has another size; names file and id.
    """
    low, high = choose_examples([a.image_counts for a in analyses], number)
    chosen = [("worst", n, i) for n, i in enumerate(low, 1)]
    chosen += [("best", n, i) for n, i in enumerate(high, 1)]
    examples = []
    for index, (rank, place, image_id) in enumerate(chosen):
        if progress is not None:
            progress("drawing", index, len(chosen))
        examples.append(_example(truth, analyses, rank, place, image_id, task))
    return examples


def _example(truth, analyses: list[Analysis], rank: str, place: int, image_id, task) -> Example:
    image = _read(truth, image_id)
    wanted = [a for a in truth.annotations if a["image_id"] == image_id]
    single = len(truth.categories) == 1  # its name on every object says nothing
    names = dict(zip((c["id"] for c in truth.categories), truth.class_names))
    items = [
        Item(
            "crowd" if a["iscrowd"] else "truth",
            "" if single or len(wanted) > _MANY else names[a["category_id"]],
            *_shape(a, truth.has_masks and task == "segm"),
        )
        for a in wanted
    ]
    count = sum(not a["iscrowd"] for a in wanted)
    kinds = {item.kind for item in items}
    panels = [
        Panel("image", "", draw_items(image, [])),
        Panel("truth", f"{count} object" + "s" * (count != 1), draw_items(image, items)),
    ]
    for analysis in analyses:
        found = _judged(truth, analysis, image_id, names, single, task)
        kinds |= {item.kind for item in found}
        counts = analysis.image_counts[image_id]
        note = f"{counts['tp']} right, {counts['fp']} wrong, {counts['fn']} missed"
        panels.append(Panel(analysis.name, note, draw_items(image, found)))
    file_name = str(truth.images[image_id].get("file_name", ""))
    return Example(rank, place, image_id, file_name, panels, kinds)


def _judged(truth, analysis: Analysis, image_id, names: dict, single: bool, task) -> list[Item]:
    """Detections above the threshold, and what they missed."""
    threshold = analysis.point.threshold
    out = []
    for row, entry in enumerate(analysis.results.detections):
        if entry["image_id"] != image_id or entry["score"] < threshold:
            continue
        kind = int(analysis.kinds.kind[row])
        if kind == IGNORED:
            continue
        name = "right" if kind == RIGHT else FALSE_KINDS[kind - CLS]
        label = ""
        if kind != RIGHT:
            words = [TAGS[name], "" if single else names[entry["category_id"]]]
            label = " ".join([w for w in words if w] + [f"{100 * entry['score']:.0f}"])
        out.append(Item(name, label, *_shape(entry, task == "segm")))
    for row, entry in enumerate(truth.annotations):
        if entry["image_id"] != image_id or entry["iscrowd"]:
            continue
        found = analysis.evaluation.matches.detection_id[row]
        if not found or analysis.results.detections[found - 1]["score"] < threshold:
            label = "" if single else names[entry["category_id"]]
            out.append(Item("miss", label, *_shape(entry, task == "segm")))
    return out


def _shape(entry: dict, with_mask: bool) -> tuple[list[float], dict | None]:
    return entry["bbox"], entry["segmentation"] if with_mask else None


def _read(truth: GroundTruth, image_id) -> np.ndarray:
    record = truth.images[image_id]
    size = record["height"], record["width"]
    if truth.image_root is None:
        return np.full((*size, 3), _BLANK, dtype=np.uint8)
    file = truth.image_root / str(record.get("file_name"))
    try:
        image = read_image(str(file), "RGB")
    except Exception as error:  # Pillow raises many kinds
        raise DataError(f"image {image_id}: {file} cannot be read: {error}.") from error
    if image.shape[:2] != size:
        raise DataError(
            f"image {image_id}: {file} has (height, width) {image.shape[:2]}, the annotations say "
            f"{size}."
        )
    return image
