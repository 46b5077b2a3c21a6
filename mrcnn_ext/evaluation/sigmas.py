# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Sigmas of keypoints, for OKS, from several annotations of the same objects.

    python -m mrcnn_ext.evaluation.sigmas first.json second.json --output with_sigmas.json

COCO's sigma of a keypoint is the root of the mean of d² / s²: d is the distance of an annotation from
the true place, s² the object's area (cocodataset.org/#keypoints-eval). The true place is not known;
of k annotations of a keypoint, the squared distances from their mean add up to k - 1 times what they
are on average from the truth. With a single file there is nothing to measure, and every keypoint gets
the default.

Exit code 0: done; 1: the message says what is wrong.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_util
from rich.console import Console
from rich.table import Table

from ..coco.read import read_coco
from ..command_line import add_output_option, command_parser
from ..errors import DataError
from ..files import write_json
from ..skeletons import DEFAULT_SIGMA
from .matched_boxes import match_boxes

__all__ = ["KeypointSigma", "estimate_sigmas", "main"]

_DRAWS = 500
_LEAST_IOU = 0.5
_FEW = 30  # objects below which an estimate is hardly one


@dataclass(frozen=True)
class KeypointSigma:
    """Of one keypoint of a category.

    Attributes:
        value: the estimate; the default where nothing was annotated twice.
        spread: its standard deviation, over bootstrap draws of objects; NaN without an estimate.
        objects: that were annotated more than once.
    """

    name: str
    value: float
    spread: float
    objects: int


def estimate_sigmas(files: Sequence[str | Path], seed: int = 0) -> dict[int, list[KeypointSigma]]:
    """Sigmas from COCO jsons that annotate the same images.

    Objects are the same if they have the same id, image and category in two or more files and their
    boxes overlap by an IoU of 0.5 or more; where the files' ids do not agree, if only their boxes do.
    Crowds are left out.

    Args:
        files: one or more.
        seed: of the bootstrap.

    Returns:
        by category id of the first file, of the categories with keypoints.

    Raises:
        DataError: a file cannot be used, the files' keypoints differ, or all annotations of a
            keypoint are the same, which a copy's are.
    """
    contents = [read_coco(str(file)) for file in files]
    names = _keypoint_names(files, contents)
    rng = np.random.default_rng(seed)
    rows: dict[int, list[list[tuple[float, float]]]] = {
        category: [[] for _ in own] for category, own in names.items()
    }
    for objects in _same_objects(contents, names):
        points = np.stack([np.reshape(o["keypoints"], (-1, 3)) for o in objects]).astype(float)
        area = float(np.mean([_area(o) for o in objects]))
        for slot, own in enumerate(points.transpose(1, 0, 2)):
            labelled = own[own[:, 2] > 0, :2]
            if len(labelled) > 1 and area > 0:
                squares = ((labelled - labelled.mean(axis=0)) ** 2).sum()
                freedom = len(labelled) - 1
                rows[objects[0]["category_id"]][slot].append((squares / area, freedom))
    found = {
        category: [_estimate(name, pairs, rng) for name, pairs in zip(names[category], own)]
        for category, own in rows.items()
    }
    _check_differences(files, found)
    return found


def _check_differences(files: Sequence, found: dict[int, list[KeypointSigma]]) -> None:
    for category, sigmas in found.items():
        for sigma in sigmas:
            if sigma.value == 0:
                raise DataError(
                    f"{', '.join(map(str, files))}: keypoint '{sigma.name}' of category {category} is "
                    f"at the same place in all annotations of {sigma.objects} objects; expected "
                    "annotations that were made independently."
                )


def _estimate(name: str, pairs: list[tuple[float, float]], rng) -> KeypointSigma:
    if not pairs:
        return KeypointSigma(name, DEFAULT_SIGMA, float("nan"), 0)
    squares, freedom = np.array(pairs).T
    draws = rng.integers(0, len(pairs), (_DRAWS, len(pairs)))
    drawn = np.sqrt(squares[draws].sum(axis=1) / freedom[draws].sum(axis=1))
    value = float(np.sqrt(squares.sum() / freedom.sum()))
    return KeypointSigma(name, value, float(drawn.std()), len(pairs))


def _keypoint_names(files: Sequence, contents: list[dict]) -> dict[int, list[str]]:
    first = {c["id"]: c for c in contents[0]["categories"] if c.get("keypoints")}
    if not first:
        raise DataError(f"{files[0]}: no category has 'keypoints'.")
    for file, content in zip(files, contents):
        own = {c["id"]: c.get("keypoints") for c in content["categories"]}
        for number, category in first.items():
            if own.get(number) != category["keypoints"]:
                raise DataError(
                    f"{file}: category {number} ('{category['name']}') has the keypoints "
                    f"{own.get(number)}; {files[0]} has {category['keypoints']}."
                )
    return {number: list(category["keypoints"]) for number, category in first.items()}


def _same_objects(contents: list[dict], names: dict[int, list[str]]) -> list[list[dict]]:
    """Lists of the annotations of one object, one of each file that has it; also of one file alone."""
    usable = [
        [
            a
            for a in content["annotations"]
            if not a.get("iscrowd")
            and len(a.get("keypoints") or ()) == 3 * len(names.get(a["category_id"], [0] * 99))
        ]
        for content in contents
    ]
    by_id = defaultdict(list)
    for annotation in (a for own in usable for a in own):
        key = annotation["id"], annotation["image_id"], annotation["category_id"]
        by_id[key].append(annotation)
    # Files that were numbered each for itself may have ids in common that mean different objects.
    repeated = [own for own in by_id.values() if len(own) > 1]
    same = [own for own in repeated if _same_place([a["bbox"] for a in own])]
    least = sorted(map(len, usable))[-2:][0]  # objects of the largest file but one
    if same and len(same) >= 0.5 * least:
        return same
    groups = [[a] for a in usable[0]]
    for own in usable[1:]:
        _add_by_box(groups, own)
    return groups


def _same_place(boxes: list) -> bool:
    overlaps = mask_util.iou(
        np.array(boxes[:1], dtype=float), np.array(boxes, dtype=float), [0] * len(boxes)
    )
    return bool((np.asarray(overlaps) >= _LEAST_IOU).all())


def _add_by_box(groups: list[list[dict]], annotations: list[dict]) -> None:
    by_place = defaultdict(list)
    for annotation in annotations:
        by_place[annotation["image_id"], annotation["category_id"]].append(annotation)
    known = defaultdict(list)
    for group in groups:
        known[group[0]["image_id"], group[0]["category_id"]].append(group)
    for place, own in by_place.items():
        there = known.get(place, [])
        matched = set()
        for row, column in _pairs(own, [group[0] for group in there]):
            there[column].append(own[row])
            matched.add(row)
        groups.extend([a] for row, a in enumerate(own) if row not in matched)


def _pairs(first: list[dict], second: list[dict]) -> list[tuple[int, int]]:
    """Annotations of the same place, the surest pairs first."""
    if not second:
        return []
    boxes = [np.array([a["bbox"] for a in some], dtype=float) for some in (first, second)]
    overlaps = np.asarray(mask_util.iou(*boxes, [0] * len(second)))
    return match_boxes(overlaps, overlaps.max(axis=1), threshold=_LEAST_IOU)


def _area(annotation: dict) -> float:
    return float(annotation.get("area") or annotation["bbox"][2] * annotation["bbox"][3])


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_parser("mrcnn_ext.evaluation.sigmas", __doc__)
    parser.add_argument("files", nargs="+", help="COCO jsons with keypoints of the same images")
    text = "a copy of the first file whose categories have 'sigmas'"
    add_output_option(parser, type=Path, help=text)
    args = parser.parse_args(argv)
    console = Console(highlight=False)
    try:
        found = estimate_sigmas(args.files)
        content = read_coco(args.files[0])
        _print(console, found, {c["id"]: c["name"] for c in content["categories"]})
        if len(args.files) == 1:
            console.print(f"One file tells no sigmas: every one is the default, {DEFAULT_SIGMA}.")
        if args.output:
            for category in content["categories"]:
                if category["id"] in found:
                    category["sigmas"] = [round(s.value, 5) for s in found[category["id"]]]
            write_json(args.output, content, indent=None)
            console.print(f"written: {args.output}")
    except (DataError, OSError) as error:
        print(f"sigmas: {error}", file=sys.stderr)
        return 1
    return 0


def _print(console: Console, found: dict[int, list[KeypointSigma]], names: dict[int, str]) -> None:
    for category, sigmas in found.items():
        table = Table(title=f"{names[category]}: sigmas", title_justify="left")
        for title in ("keypoint", "sigma", "± (bootstrap)", "objects"):
            table.add_column(title, justify="left" if title == "keypoint" else "right")
        for one in sigmas:
            spread = f"{one.spread:.4f}" if one.objects else "default"
            note = " (few)" if 0 < one.objects < _FEW else ""
            table.add_row(one.name, f"{one.value:.4f}", spread, f"{one.objects}{note}")
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
