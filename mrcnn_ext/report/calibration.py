# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What is computed from matches: scores against truth, images, the quality of masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..coco.areas import AREA_NAMES, in_area
from ..coco.index import GroundTruth
from ..evaluation.matching import Matches
from ..evaluation.overlaps import Overlaps
from ..evaluation.tasks.mask_quality import quality_of_matches
from ..evaluation.tasks.operating_point import OperatingPoint, choose_point
from .error_kinds import IGNORED, RIGHT, ErrorKinds

__all__ = [
    "Calibration",
    "OperatingPoint",
    "calibrate",
    "choose_examples",
    "image_scores",
    "mask_quality",
    "operating_point",
]

_BINS = 10


def operating_point(kinds: ErrorKinds, threshold: float | None = None) -> OperatingPoint:
    """The threshold of the highest F1 over all images, or what is at ``threshold``."""
    kept = kinds.kind != IGNORED
    scores, right = kinds.scores[kept], kinds.kind[kept] == RIGHT
    return choose_point(scores, right, int(kinds.counted.sum()), threshold=threshold)


@dataclass(frozen=True)
class Calibration:
    """Detections in ten equal bins of the score.

    Attributes:
        count: int64 (10,).
        score, precision: float64 (10,), means; NaN in an empty bin.
        error: the mean distance of score and precision, weighted by count.
    """

    count: np.ndarray
    score: np.ndarray
    precision: np.ndarray
    error: float


def calibrate(kinds: ErrorKinds) -> Calibration | None:
    """None if a score is not in 0 … 1."""
    kept = kinds.kind != IGNORED
    scores, right = kinds.scores[kept], kinds.kind[kept] == RIGHT
    if ((scores < 0) | (scores > 1)).any():
        return None
    bins = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
    count = np.bincount(bins, minlength=_BINS)
    with np.errstate(invalid="ignore"):
        score = np.bincount(bins, scores, _BINS) / count
        precision = np.bincount(bins, right, _BINS) / count
    filled = count > 0
    distance = np.abs(score - precision)[filled]
    error = float(np.average(distance, weights=count[filled])) if filled.any() else float("nan")
    return Calibration(count, score, precision, error)


def image_scores(
    truth: GroundTruth, entries: list[dict], matches: Matches, threshold: float
) -> dict[int, dict[str, int]]:
    """Right, wrong and missed ("tp", "fp", "fn") in each image at a score threshold, IoU 0.5.

    Matching goes by falling score, so what is below the threshold has no influence on what is above.

    Args:
        entries: detections with their scores, see :class:`~.analysis.Analysis`.

    Returns:
        by number of the image.
    """
    counts = {number: {"tp": 0, "fp": 0, "fn": 0} for number in truth.image_number.values()}
    for row, entry in enumerate(entries):
        if entry["score"] >= threshold and not matches.ignored[row]:
            counts[entry["image_id"]]["tp" if matches.object_id[row] else "fp"] += 1
    for row, entry in enumerate(truth.objects):
        found = matches.detection_id[row]
        seen = found and entries[found - 1]["score"] >= threshold
        if not entry["iscrowd"] and not seen:
            counts[entry["image_id"]]["fn"] += 1
    return counts


def choose_examples(
    per_result: list[dict[int, dict[str, int]]], number: int
) -> tuple[list[int], list[int]]:
    """The images with the lowest and with the highest F1, the mean over result files.

    Images without instances and detections have no F1. Of equal ones those with more objects come
    first. No image is in both lists.
    """
    entries = []
    for image_id in per_result[0]:
        counts = [c[image_id] for c in per_result]
        sizes = [2 * c["tp"] + c["fp"] + c["fn"] for c in counts]
        if max(sizes):
            f1 = np.mean([2 * c["tp"] / size if size else 1.0 for c, size in zip(counts, sizes)])
            entries.append((float(f1), sum(sizes), image_id))
    worst = sorted(entries, key=lambda e: (e[0], -e[1]))
    best = sorted(entries, key=lambda e: (-e[0], -e[1]))
    number = min(number, max(1, len(entries) // 2))
    low = [e[2] for e in worst[:number]]
    return low, [e[2] for e in best[:number] if e[2] not in low]


def mask_quality(overlaps: Overlaps) -> dict[str, dict]:
    """Mean mask IoU and boundary IoU of pairs whose boxes match, by size of the object.

    Returns:
        by names of areas (half-open ranges) "pairs", "mask_iou", "boundary_iou" (NaN without pairs).
    """
    rows = np.array(quality_of_matches(overlaps), dtype=np.float64).reshape(-1, 3)
    out = {}
    for name in AREA_NAMES:
        group = rows[in_area(rows[:, 2], name), :2]
        means = group.mean(axis=0).tolist() if len(group) else [float("nan")] * 2
        out[name] = {"pairs": len(group), "mask_iou": means[0], "boundary_iou": means[1]}
    return out
