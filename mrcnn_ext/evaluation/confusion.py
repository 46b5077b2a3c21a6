# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Which classes are taken for which: the confusion matrix of detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util

from ..coco.index import GroundTruth
from .matching import Matches

__all__ = ["confusion_matrix", "frequent_confusions"]

_LEAST_IOU = 0.5


def confusion_matrix(
    truth: GroundTruth, entries: list[dict], matches: Matches, taken: np.ndarray, task: str
) -> np.ndarray:
    """Count objects by their class and the class they were detected as.

    Detections first keep the objects of their own class that the evaluation gives them, so that the
    diagonal is what precision and recall count. Of the rest, best score first, each takes the object
    of another class that it overlaps most, from an IoU of 0.5 on.

    Args:
        entries: detections with "score" and "record", ``entries[id - 1]``.
        matches: of the entries, at IoU 0.5 within classes.
        taken: bool (D,), detections that count: those at their threshold, and not in a crowd.
        task: "bbox" or "segm", whose IoU is used.

    Returns:
        int64 (K + 1, K + 1): row: class of the object, the last: none (a false detection); column:
        class of the detection, the last: none (a missed object). Crowds are not counted.
    """
    number = len(truth.categories)
    matrix = np.zeros((number + 1, number + 1), dtype=np.int64)
    classes = np.array([entry["category_id"] for entry in entries], dtype=np.int64) - 1
    of_object = np.array([entry["category_id"] for entry in truth.objects], dtype=np.int64) - 1
    free = np.array([not entry["iscrowd"] for entry in truth.objects], dtype=bool)
    right = taken & (matches.object_id > 0)
    found = matches.object_id[right] - 1
    np.add.at(matrix, (of_object[found], classes[right]), 1)
    free[found] = False
    rest = sorted(np.flatnonzero(taken & ~right).tolist(), key=lambda i: -entries[i]["score"])
    columns = _by_image(truth.objects, np.flatnonzero(free).tolist())
    for image, rows in _by_image(entries, rest).items():
        others = columns.get(image, [])
        overlaps = _overlaps(truth, [entries[i] for i in rows], others, task)
        for place, row in enumerate(rows):
            best = int(overlaps[place].argmax()) if others else -1
            if best >= 0 and overlaps[place, best] >= _LEAST_IOU:
                matrix[of_object[others[best]], classes[row]] += 1
                free[others[best]] = False
                overlaps[:, best] = -1
            else:
                matrix[number, classes[row]] += 1
    np.add.at(matrix, (of_object[free], number), 1)
    return matrix


def _by_image(entries: list[dict], rows: list[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(entries[row]["image_id"], []).append(row)
    return found


def _overlaps(truth: GroundTruth, entries: list[dict], others: list[int], task: str) -> np.ndarray:
    """(D, G) IoU of some detections and objects of an image, whatever their class."""
    if not others:
        return np.zeros((len(entries), 0))
    objects = [truth.objects[i] for i in others]
    records = [entry["record"] for entry in entries]
    crowds = [0] * len(objects)
    if task == "bbox":
        boxes = [
            np.array([o["bbox"] for o in side], dtype=np.float64) for side in (records, objects)
        ]
        return mask_util.iou(*boxes, crowds)
    masks = [record["segmentation"] for record in records]
    return mask_util.iou(masks, [truth.rle(entry) for entry in objects], crowds)


def frequent_confusions(matrix: np.ndarray, names: Sequence[str]) -> list[tuple[int, str, str]]:
    """How often, class of the object, class it was taken for; the most frequent first.

    Args:
        matrix: see :func:`confusion_matrix`; false detections and missed objects are left out.
    """
    mixed = matrix[:-1, :-1] - np.diag(np.diag(matrix)[:-1])
    order = np.argsort(-mixed, axis=None, kind="stable")[: int((mixed > 0).sum())]
    places = np.column_stack(np.unravel_index(order, mixed.shape)).tolist()
    return [(int(mixed[i, j]), names[i], names[j]) for i, j in places]
