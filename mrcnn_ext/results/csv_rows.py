# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions as a table: one row an object."""

from __future__ import annotations

import csv
from pathlib import Path

from ..files import replaced_file
from .options import FormOptions
from .predictions import Predictions

__all__ = ["write_csv"]

_COLUMNS = ("image", "image_id", "object", "class", "category_id", "score")
_BOX = ("x", "y", "width", "height", "area")
_OPTIONAL = ("mask_score", "track_id")  # columns where some object has such a thing
_DIGITS, _SCORE_DIGITS = 3, 6


def write_csv(predictions: Predictions, folder: Path, options: FormOptions) -> None:
    """Write ``objects.csv``, UTF-8 with a head.

    Boxes and keypoints are in pixels, the centre of the first pixel at 0.5, as in
    ``predictions.json``. The area is that of the mask, else of the box. Keypoints have three columns
    each, by name; those that an object's class does not have are empty. Objects count from 1 in each
    image.
    """
    more, names = _columns(predictions)
    points = [f"{name}_{part}" for name in names for part in ("x", "y", "score")]
    file = folder / "objects.csv"
    with (
        replaced_file(file) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as opened,
    ):
        writer = csv.DictWriter(opened, [*_COLUMNS, *more, *_BOX, *points])
        writer.writeheader()
        for line in predictions.lines:
            for number, record in enumerate(line["results"], 1):
                writer.writerow(_row(predictions, line, record, number, more))


def _columns(predictions: Predictions) -> tuple[list[str], list[str]]:
    """Optional columns that are needed, and the names of all keypoints, in order."""
    more: set[str] = set()
    names: dict[str, None] = {}
    for category in predictions.categories():
        names |= dict.fromkeys(category.get("keypoints", ()))
    for _, record in predictions.objects():
        more |= record.keys() & set(_OPTIONAL)
        names |= dict.fromkeys(predictions.keypoint_names(record))
    return [name for name in _OPTIONAL if name in more], list(names)


def _row(
    predictions: Predictions, line: dict, record: dict, number: int, more: list[str]
) -> dict[str, object]:
    row: dict[str, object] = {
        "image": line["file"],
        "image_id": line["image_id"],
        "object": number,
        "class": predictions.class_name(record),
        "category_id": record["category_id"],
        "score": round(record["score"], _SCORE_DIGITS),
    }
    row |= {name: record[name] for name in more if name in record}
    box = zip(_BOX, [*record["bbox"], predictions.area(record)])
    row |= {name: round(value, _DIGITS) for name, value in box}
    points = record.get("keypoints") or []
    for index, name in enumerate(predictions.keypoint_names(record)):
        x, y, score = points[3 * index : 3 * index + 3]
        # COCO's keypoints name pixels: the first one's centre is 0, not 0.5.
        row[f"{name}_x"], row[f"{name}_y"] = round(x + 0.5, _DIGITS), round(y + 0.5, _DIGITS)
        row[f"{name}_score"] = round(score, _SCORE_DIGITS)
    return row
