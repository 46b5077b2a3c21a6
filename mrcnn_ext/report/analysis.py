# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Everything the report says about one result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, DataError
from ..evaluation.class_keypoints import oks_sigmas
from .calibration import (
    Calibration,
    OperatingPoint,
    calibrate,
    image_scores,
    mask_quality,
    operating_point,
)
from .error_kinds import ErrorKinds, classify_errors
from .load import GroundTruth, Results
from .scores import AREAS, Evaluation, evaluate, evaluate_keypoints, match_boxes

__all__ = ["Analysis", "analyse", "choose_task"]


@dataclass
class Analysis:
    """Of one result file.

    Attributes:
        delta_ap: by kind of error, and "fp", "fn"; in 0 … 1.
        mask_quality: None without masks.
        keypoints: AP by OKS; None without keypoints, or without sigmas for them.
        image_counts: right, wrong and missed at the threshold of ``point``, by image id.
    """

    results: Results
    evaluation: Evaluation
    kinds: ErrorKinds
    counts: dict[str, int]
    delta_ap: dict[str, float]
    point: OperatingPoint
    calibration: Calibration | None
    image_counts: dict[int, dict[str, int]]
    mask_quality: dict[str, dict] | None
    keypoints: dict[str, float] | None

    @property
    def name(self) -> str:
        return self.results.name

    def as_json(self, class_names: list[str]) -> dict:
        """All numbers; None stands for those that do not exist."""
        evaluation = self.evaluation
        return _without_nan(
            {
                "name": self.name,
                "file": self.results.source,
                "detections": len(self.results.detections),
                "AP": evaluation.ap(),
                "AP50": evaluation.ap(0.5),
                "AP75": evaluation.ap(0.75),
                "AR": evaluation.ar(),
                "by_size": {
                    a: {"AP": evaluation.ap(area=a), "AR": evaluation.ar(a)} for a in AREAS[1:]
                },
                "by_class": {
                    name: {
                        "AP": evaluation.ap(category=k),
                        "AP50": evaluation.ap(0.5, category=k),
                        "errors": self.kinds.counts_of_class(k),
                    }
                    for k, name in enumerate(class_names)
                },
                "errors": self.counts,
                "delta_AP50": self.delta_ap,
                "best_f1": vars(self.point),
                "calibration_error": None if self.calibration is None else self.calibration.error,
                "masks_of_matched_boxes": self.mask_quality,
                "keypoints": self.keypoints,
            }
        )


def choose_task(truth: GroundTruth, results: Sequence[Results], task: str | None) -> str:
    """ "segm" if all have masks, else "bbox"; or the task that was asked for.

    Raises:
        ConfigError: there is no such task.
        DataError: masks were asked for, and are missing; names file and image id.
    """
    with_masks = truth.has_masks and any(r.has_masks for r in results)
    complete = all(r.has_masks or not r.detections for r in results)
    if task is None:
        return "segm" if with_masks and complete else "bbox"
    if task not in ("bbox", "segm"):
        raise ConfigError(f"--task is {task!r}; expected bbox or segm.")
    if task == "segm":
        if not truth.has_masks and truth.annotations:
            entry = next(a for a in truth.annotations if not a.get("segmentation"))
            raise DataError(
                f"{truth.source}: image {entry['image_id']}, annotation {entry['file_id']} has no "
                "segmentation, which --task segm needs."
            )
        for result in results:
            for entry in result.detections:
                if "segmentation" not in entry:
                    raise DataError(
                        f"{result.source}: a result for image id {entry['image_id']} has no "
                        "segmentation, which --task segm needs."
                    )
    return task


def analyse(
    truth: GroundTruth,
    results: Results,
    *,
    task: str,
    max_dets: int,
    score_threshold: float | None,
    sigmas: Sequence[float] | None,
) -> Analysis:
    """
    Args:
        task: "bbox" or "segm".
        max_dets: as for :func:`~.scores.evaluate`.
        score_threshold: for counting right and wrong in images; None takes that of the best F1.
        sigmas: of the keypoints; None: those of the json's categories, or COCO's.
    """
    evaluation = evaluate(truth, results, task, max_dets)
    kinds = classify_errors(truth, results, evaluation.matches, task)
    point = operating_point(kinds, score_threshold)
    quality = None
    if truth.has_masks and results.has_masks:
        boxes = evaluation.matches if task == "bbox" else match_boxes(truth, results, max_dets)
        quality = mask_quality(truth, results, boxes)
    return Analysis(
        results=results,
        evaluation=evaluation,
        kinds=kinds,
        counts=kinds.counts(),
        delta_ap=kinds.delta_ap(),
        point=point,
        calibration=calibrate(kinds),
        image_counts=image_scores(truth, results, evaluation.matches, point.threshold),
        mask_quality=quality,
        keypoints=_keypoints(truth, results, sigmas),
    )


def _keypoints(truth: GroundTruth, results: Results, given) -> dict[str, float] | None:
    """AP of the categories with keypoints, each by its own sigmas; None without any.

    Raises:
        ConfigError: another number of sigmas is given.
        DataError: results and ground truth differ in the number of a category's keypoints.
    """
    if not (truth.has_keypoints and results.has_keypoints):
        return None
    sigmas = oks_sigmas(given or (), {}, truth.categories)
    by_category: dict[int, np.ndarray] = {}
    for category in truth.categories:
        number = _number_of_keypoints(category, truth, results)
        if not number:
            continue
        own = sigmas.get(category["id"]) if isinstance(sigmas, Mapping) else sigmas
        if own is None:
            continue
        if len(own) != number or min(own) <= 0:
            raise ConfigError(
                f"--oks-sigmas has {len(own)} numbers, the keypoints are {number}; expected as many, "
                "all above 0."
            )
        by_category[category["id"]] = np.asarray(own, dtype=float)
    return evaluate_keypoints(truth, results, by_category) if by_category else None


def _number_of_keypoints(category: dict, truth: GroundTruth, results: Results) -> int:
    """Of a category that has labelled ones; 0 otherwise."""
    own = [a for a in truth.annotations if a["category_id"] == category["id"]]
    if not any(any(v > 0 for v in a.get("keypoints", [])[2::3]) for a in own):
        return 0
    found = [d for d in results.detections if d["category_id"] == category["id"]]
    lengths = {len(entry["keypoints"]) for entry in (*own, *found) if entry.get("keypoints")}
    if len(lengths) > 1:
        raise DataError(
            f"{results.source}: the keypoints of category '{category.get('name', category['id'])}' "
            f"and those of the ground truth differ in number: {sorted(n // 3 for n in lengths)}."
        )
    return lengths.pop() // 3


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, float):
        return None if value != value else round(value, 6)
    return value
