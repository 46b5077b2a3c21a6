# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How good masks are where the box is right, which tells mask heads apart from detectors."""

from __future__ import annotations

import numpy as np

from ..._moved import moved_names
from ...coco.areas import AREA_LETTERS, in_area
from ..matched_boxes import matched_boxes
from ..overlaps import Overlaps
from .task import Task, TaskInput, register_task

__all__ = ["MaskQuality", "quality_of_matches", "summarize_quality"]

__getattr__ = moved_names(__name__, {"match_boxes": "mrcnn_ext.evaluation.matched_boxes"})

_MEASURES = ("IoU", "boundary_IoU")


class MaskQuality(Task):
    """Mean mask IoU and mean boundary IoU of detections whose box matches an object.

    "IoU", "boundary_IoU" and the same by size of the object ("IoUs" …) are means over matches.
    "found": objects that have a match, in percent. "matches": their number. Boxes are matched to all
    objects; those that have no mask then play no part in any of these.
    """

    name = "mask_quality"
    needs = ("segmentation", "bbox")
    metrics = (
        *(measure + letter for measure in _MEASURES for letter in ("", *AREA_LETTERS.values())),
        *("found", "matches"),
    )

    def evaluate(self, data: TaskInput) -> dict[str, float]:
        rows = quality_of_matches(data.overlaps)
        results = summarize_quality(rows)
        total = data.overlaps.mask_truth.num_instances
        results["found"] = 100 * len(rows) / total if total else float("nan")
        results["matches"] = float(len(rows))
        return results | data.count_without_mask()


def quality_of_matches(overlaps: Overlaps) -> list[tuple[float, float, float]]:
    """Mask IoU, boundary IoU and the object's area, for each match of boxes."""
    rows = []
    for pair in overlaps.pairs:
        # Crowds match nothing, so that one here is an object that has only a box.
        objects = overlaps.mask_truth.by_pair[pair]
        matches = [m for m in matched_boxes(overlaps, pair) if not objects[m[1]]["iscrowd"]]
        boundaries = overlaps.boundary_ious(pair, matches)
        for (row, column), boundary in zip(matches, boundaries):
            rows.append((overlaps.masks(pair)[row, column], boundary, objects[column]["area"]))
    return rows


def summarize_quality(rows: list[tuple[float, float, float]]) -> dict[str, float]:
    """Means in percent, over all and by size, in half-open ranges of area.

    Args:
        rows: mask IoU, boundary IoU and the object's area of each mask.
    """
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    results = {}
    for column, name in enumerate(_MEASURES):
        results[name] = _percent(table[:, column])
        for area, letter in AREA_LETTERS.items():
            results[name + letter] = _percent(table[in_area(table[:, 2], area), column])
    return results


def _percent(values: np.ndarray) -> float:
    return float(values.mean() * 100) if values.size else float("nan")


register_task(MaskQuality())
