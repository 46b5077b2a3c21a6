# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How good masks are where the box is right, which tells mask heads apart from detectors."""

from __future__ import annotations

import numpy as np

from ..coco.areas import AREA_LETTERS, in_area
from .overlaps import Overlaps

__all__ = ["mask_quality", "match_boxes", "summarize_quality"]


def mask_quality(overlaps: Overlaps, threshold: float = 0.5) -> dict[str, float]:
    """Mean mask IoU and mean boundary IoU of detections whose box matches an object.

    Args:
        overlaps: of detections and ground truth, all with masks.
        threshold: least IoU of the boxes.

    Returns:
        "IoU", "boundary_IoU" and the same by size of the object ("IoUs" …): means over matches, in
        percent, NaN where there is none. "found": objects that have a match, in percent.
        "matches": their number.
    """
    rows = []
    for pair in overlaps.pairs:
        entries = overlaps.detections.by_pair[pair]
        objects = overlaps.ground_truth.by_pair[pair]
        matches = match_boxes(
            overlaps.boxes(pair),
            np.array([entry["record"]["score"] for entry in entries]),
            np.array([entry["iscrowd"] for entry in objects], dtype=bool),
            threshold,
        )
        boundaries = overlaps.boundary_ious(pair, matches)
        for (row, column), boundary in zip(matches, boundaries):
            rows.append((overlaps.masks(pair)[row, column], boundary, objects[column]["area"]))
    results = summarize_quality(rows)
    total = sum(not entry["iscrowd"] for entry in overlaps.ground_truth.objects)
    results["found"] = 100 * len(rows) / total if total else float("nan")
    results["matches"] = float(len(rows))
    return results


def summarize_quality(rows: list[tuple[float, float, float]]) -> dict[str, float]:
    """Means in percent, over all and by size, in half-open ranges of area.

    Args:
        rows: mask IoU, boundary IoU and the object's area of each mask.
    """
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    results = {}
    for column, name in enumerate(("IoU", "boundary_IoU")):
        results[name] = _percent(table[:, column])
        for area, letter in AREA_LETTERS.items():
            results[name + letter] = _percent(table[in_area(table[:, 2], area), column])
    return results


def match_boxes(
    overlaps: np.ndarray, scores: np.ndarray, crowds: np.ndarray, threshold: float
) -> list[tuple[int, int]]:
    """Pairs of one detection and one object, best score first, each the best that is left.

    Args:
        overlaps: (D, G) IoU of boxes.
        scores: (D,).
        crowds: (G,) bool; crowds match nothing.
        threshold: least IoU.

    Returns:
        (row, column) of each match.
    """
    free = np.where(crowds, -1.0, 0.0) + overlaps * ~crowds
    matches = []
    for row in np.argsort(-scores, kind="stable").tolist():
        column = int(free[row].argmax())
        if free[row, column] >= threshold:
            matches.append((row, column))
            free[:, column] = -1
    return matches


def _percent(values: np.ndarray) -> float:
    return float(values.mean() * 100) if values.size else float("nan")
