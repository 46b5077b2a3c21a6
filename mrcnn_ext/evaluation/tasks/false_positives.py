# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""False positives an image: what a user sees of a detector that runs where there may be nothing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ...coco.index import GroundTruth, ImageCategory
from ..matched_boxes import match_boxes
from ..settings import EvaluationSettings
from .ap import BOX_AP
from .task import Task, TaskInput, register_task

__all__ = ["FalsePositives", "score_text"]

_IOU = 0.5
_METRIC = re.compile(r"(FP|FP_negatives)@[01](\.\d+)?")


class FalsePositives(Task):
    """Detections an image that are wrong, at scores from which on detections are used.

    "FP@0.5": detections of score 0.5 or more that are false, an image, over all images; and
    "FP_negatives@0.5" over images without any annotation, in which every detection is false (NaN where
    there is no such image). "negatives": the number of these images. "FP@0.5-<class>" where there are
    several classes. The scores are ``settings.score_thresholds``.

    A detection is right if it is matched to an object of its class, as AP matches: best score first,
    one detection an object, at a box IoU of 0.5 or more. One that lies in a crowd is neither. All
    detections of an image count, whatever the limit of AP is; in LVIS's style, those that AP takes.
    """

    name = "false_positives"
    needs = ("bbox",)
    metrics = (
        *(f"{kind}@{score}" for kind in ("FP", "FP_negatives") for score in (0.3, 0.5, 0.7)),
        "negatives",
    )

    def evaluate(self, data: TaskInput) -> dict[str, float]:
        truth, thresholds = data.ground_truth, data.settings.score_thresholds
        negative = _negatives(truth)
        entries = _false(data, min(thresholds, default=0.0))
        scores = np.array([entry["score"] for entry in entries], dtype=np.float64)
        classes = np.array([entry["category_id"] for entry in entries], dtype=np.int64) - 1
        of_negative = np.array([negative[entry["image_id"] - 1] for entry in entries], dtype=bool)
        results, by_class = {}, {}
        for threshold in thresholds:
            counted = scores >= threshold
            results[f"FP@{score_text(threshold)}"] = int(counted.sum()) / len(truth.images)
            for index, name in enumerate(data.class_names if len(data.class_names) > 1 else ()):
                own = int((counted & (classes == index)).sum())
                by_class[f"FP@{score_text(threshold)}-{name}"] = own / len(truth.images)
        for threshold in thresholds:
            number = int(((scores >= threshold) & of_negative).sum())
            results[f"FP_negatives@{score_text(threshold)}"] = _mean(number, negative.sum())
        return {**results, "negatives": float(negative.sum()), **by_class}

    def without_predictions(
        self, ground_truth: GroundTruth, settings: EvaluationSettings
    ) -> dict[str, float]:
        """Nothing that was found is wrong."""
        number = _negatives(ground_truth).sum()
        results = {f"FP@{score_text(t)}": 0.0 for t in settings.score_thresholds}
        results |= {
            f"FP_negatives@{score_text(t)}": _mean(0, number) for t in settings.score_thresholds
        }
        return {**results, "negatives": float(number)}

    def can_have(self, metric: str, class_names: Sequence[str] | None) -> bool:
        found = _METRIC.match(metric)
        if found is None:
            return metric in self.metrics
        rest = metric[found.end() :]
        if rest and (found[1] != "FP" or (class_names is not None and len(class_names) == 1)):
            return False
        # Task knows the classes, but not the scores of the settings.
        return super().can_have(self.metrics[0] + rest, class_names)


def score_text(score: float) -> str:
    """A score as the names of metrics have it, without an exponent, whose "-" would mark a class."""
    return np.format_float_positional(score, trim="-")


def _false(data: TaskInput, lowest: float) -> list[dict]:
    """Detections of at least this score that are wrong, with their scores.

    Matching goes by falling score: what is below has no influence on what is above.
    """
    if data.settings.lvis_style:
        entries = BOX_AP.matching(data).detections
    else:
        scored = [(entry["record"]["score"], entry) for entry in data.detections.entries]
        entries = [{**e, "score": score, "area": 0.0} for score, e in scored if score >= lowest]
    by_pair: dict[ImageCategory, list[dict]] = defaultdict(list)
    for entry in entries:
        if entry["score"] >= lowest:
            by_pair[entry["image_id"], entry["category_id"]].append(entry)
    return [entry for pair, found in by_pair.items() for entry in _false_of(data, pair, found)]


def _false_of(data: TaskInput, pair: ImageCategory, found: list[dict]) -> list[dict]:
    objects = data.ground_truth.by_pair.get(pair, [])
    right = np.zeros(len(found), dtype=bool)
    # An area below 0 marks what is no mistake to LVIS, see lvis.py.
    ignored = np.array([entry["area"] < 0 for entry in found], dtype=bool)
    if objects:
        overlaps = data.overlaps.boxes(pair)[[entry["row"] for entry in found]]
        crowds = np.array([entry["iscrowd"] for entry in objects], dtype=bool)
        scores = np.array([entry["score"] for entry in found])
        right[[row for row, _ in match_boxes(overlaps, scores, crowds, _IOU)]] = True
        ignored |= (overlaps[:, crowds] >= _IOU).any(axis=1)
    return [entry for entry, keep in zip(found, ~right & ~ignored) if keep]


def _negatives(truth: GroundTruth) -> np.ndarray:
    """(I,) bool: images without any annotation, by their number less one."""
    negative = np.ones(len(truth.images), dtype=bool)
    negative[[entry["image_id"] - 1 for entry in truth.objects]] = False
    return negative


def _mean(number: int, images) -> float:
    return number / int(images) if images else float("nan")


register_task(FalsePositives())
