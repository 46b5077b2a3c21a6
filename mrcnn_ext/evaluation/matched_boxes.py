# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detections whose box is that of an object: what masks and keypoints are measured on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.structures import Instances
from pycocotools import mask as mask_util

from ..coco.index import ImageCategory
from .overlaps import Overlaps

__all__ = ["match_boxes", "match_instances", "matched_boxes"]


def match_boxes(
    overlaps: np.ndarray,
    scores: np.ndarray,
    crowds: np.ndarray | None = None,
    threshold: float = 0.5,
) -> list[tuple[int, int]]:
    """Match detections to objects one to one: best score first, each to the best object left.

    Args:
        overlaps: (D, G) IoU of boxes.
        scores: (D,).
        crowds: (G,) bool; crowds match nothing. None: there are none.
        threshold: least IoU.

    Returns:
        (row, column) of each match.
    """
    free = np.where(False if crowds is None else crowds, -1.0, overlaps)
    matches = []
    for row in np.argsort(-scores, kind="stable").tolist():
        column = int(free[row].argmax())
        if free[row, column] >= threshold:
            matches.append((row, column))
            free[:, column] = -1
    return matches


def matched_boxes(overlaps: Overlaps, pair: ImageCategory) -> list[tuple[int, int]]:
    """The matches of one image and category: rows and columns of its arrays."""
    return match_boxes(
        overlaps.boxes(pair),
        np.array([entry["record"]["score"] for entry in overlaps.detections.by_pair[pair]]),
        np.array([entry["iscrowd"] for entry in overlaps.ground_truth.by_pair[pair]], dtype=bool),
    )


def match_instances(
    output: Instances, boxes: Sequence[Sequence[float]], classes: Sequence[int]
) -> list[tuple[int, int]]:
    """The matches of a model's output for one image, each within one class.

    Args:
        output: on the CPU, with "pred_boxes", "pred_classes" and "scores".
        boxes: (G, 4) x0, y0, x1, y1 of objects, in the pixels of ``output``.
        classes: (G,) contiguous.

    Returns:
        (detection, object) of each match.
    """
    found = _xywh(output.pred_boxes.tensor.numpy())
    wanted = _xywh(boxes)
    scores, found_classes = output.scores.numpy(), output.pred_classes.numpy()
    matches = []
    for category in dict.fromkeys(classes):
        rows = np.flatnonzero(found_classes == category)
        columns = np.flatnonzero(np.asarray(classes) == category)
        if len(rows):
            overlaps = mask_util.iou(found[rows], wanted[columns], [0] * len(columns))
            for row, column in match_boxes(overlaps, scores[rows]):
                matches.append((int(rows[row]), int(columns[column])))
    return matches


def _xywh(boxes) -> np.ndarray:
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes
