# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Everything the report says about one result file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..coco.areas import AREA_NAMES, in_area
from ..coco.index import Detections, GroundTruth, has_mask
from ..errors import ConfigError
from ..evaluation.matching import Curves, Matches
from ..evaluation.overlaps import Overlaps
from ..evaluation.settings import EvaluationSettings
from ..evaluation.tasks import TaskInput
from ..evaluation.tasks.ap import BOX_AP, MASK_AP
from ..evaluation.tasks.oks import KEYPOINT_AP
from ..evaluation.tasks.operating_point import OperatingPoints, find_operating_points
from ..evaluation.thresholds import thresholds_content
from .calibration import (
    Calibration,
    OperatingPoint,
    calibrate,
    image_scores,
    mask_quality,
    operating_point,
)
from .error_kinds import ErrorKinds, classify_errors

__all__ = ["Analysis", "analyse", "choose_task", "count_instances", "why_boxes"]

TASKS = {task.name: task for task in (BOX_AP, MASK_AP)}


@dataclass
class Analysis:
    """Of one result file.

    Attributes:
        entries: one dict a detection, ``entries[id - 1]``: "id", "image_id" and "category_id" (numbers
            of the ground truth), "score", "area", "record".
        instances: (K, A) int64, objects without crowds by category and area, half-open ranges.
        delta_ap: by kind of error, and "fp", "fn"; in 0 … 1.
        mask_quality: None without masks.
        keypoints: AP by OKS; None without keypoints, or without sigmas for them.
        operating: thresholds of the classes at their best F1, and the confusion matrix there.
        image_counts: right, wrong and missed at the threshold of ``point``, by number of the image.
    """

    results: Detections
    entries: list[dict]
    curves: Curves
    matches: Matches
    instances: np.ndarray
    kinds: ErrorKinds
    counts: dict[str, int]
    delta_ap: dict[str, float]
    point: OperatingPoint
    operating: OperatingPoints
    calibration: Calibration | None
    image_counts: dict[int, dict[str, int]]
    mask_quality: dict[str, dict] | None
    keypoints: dict[str, float] | None

    @property
    def name(self) -> str:
        return self.results.name

    def as_json(self, class_names: list[str]) -> dict:
        """All numbers; None stands for those that do not exist."""
        curves = self.curves
        return _without_nan(
            {
                "name": self.name,
                "file": self.results.source,
                "detections": len(self.entries),
                "AP": curves.ap(),
                "AP50": curves.ap(0.5),
                "AP75": curves.ap(0.75),
                "AR": curves.ar(),
                "by_size": {
                    a: {"AP": curves.ap(area=a), "AR": curves.ar(area=a)} for a in AREA_NAMES[1:]
                },
                "by_class": {
                    name: {
                        "AP": curves.ap(category=k),
                        "AP50": curves.ap(0.5, category=k),
                        "errors": self.kinds.counts_of_class(k),
                    }
                    for k, name in enumerate(class_names)
                },
                "errors": self.counts,
                "delta_AP50": self.delta_ap,
                "best_f1": vars(self.point),
                "operating_points": thresholds_content(self.operating, class_names),
                "calibration_error": None if self.calibration is None else self.calibration.error,
                "masks_of_matched_boxes": self.mask_quality,
                "keypoints": self.keypoints,
            }
        )


def choose_task(
    truth: GroundTruth,
    results: Sequence[Detections],
    task: str | None,
    *,
    boxes_only: bool = False,
) -> str:
    """ "segm" if all have masks, else "bbox"; or the task that was asked for.

    Args:
        boxes_only: some objects of the truth with masks are enough.

    Raises:
        ConfigError: there is no such task.
        DataError: boxes or masks are missing; names file and image id.
    """
    if task is None:
        enough = any(map(has_mask, truth.objects)) if boxes_only else truth.has_masks
        with_masks = enough and any(r.has_masks for r in results)
        complete = all(r.has_masks or not r.entries for r in results)
        task = "segm" if with_masks and complete else "bbox"
    if task not in TASKS:
        raise ConfigError(f"--task is {task!r}; expected bbox or segm.")
    for result in results:
        TASKS[task].check(result)
    return task


def why_boxes(truth: GroundTruth, results: Sequence[Detections]) -> str | None:
    """Why boxes are compared although there are masks: what lacks one. None if there are none."""
    lacking = [e for e in truth.objects if not e["annotation"].get("segmentation")]
    some = len(lacking) < len(truth.objects) or any(
        "segmentation" in e["record"] for r in results for e in r.entries
    )
    if not some:
        return None
    if lacking:
        text = f"{len(lacking)} of {len(truth.objects)} objects have no mask"
        where = f"{text}, the first: {truth.describe(lacking[0])}"
        return f"{where} (--boxes-only compares masks without them)"
    for result in results:
        without = [e["record"] for e in result.entries if "segmentation" not in e["record"]]
        if without:
            text = (
                f"{result.source}: {len(without)} of {len(result.entries)} predictions have no mask"
            )
            return f"{text}, the first is for image id {without[0]['image_id']!r}"
    return None


def count_instances(truth: GroundTruth) -> np.ndarray:
    """(K, A) int64: objects without crowds by category and area, in half-open ranges."""
    counted = [entry for entry in truth.objects if not entry["iscrowd"]]
    classes = np.array([entry["category_id"] for entry in counted], dtype=np.int64) - 1
    areas = [entry["area"] for entry in counted]
    columns = [
        np.bincount(classes[in_area(areas, name)], minlength=len(truth.categories))
        for name in AREA_NAMES
    ]
    return np.stack(columns, axis=1)


def analyse(
    truth: GroundTruth,
    results: Detections,
    *,
    task: str,
    max_dets: int,
    score_threshold: float | None,
    settings: EvaluationSettings,
) -> Analysis:
    """
    Args:
        task: "bbox" or "segm".
        max_dets: detections of a class that count in an image, the highest scores first.
        score_threshold: for counting right and wrong in images; None takes that of the best F1.
        settings: with the sigmas of the keypoints.
    """
    overlaps = Overlaps(truth, results, settings.boundary_dilation, boxes_only=settings.boxes_only)
    data = TaskInput(overlaps, settings, truth.class_names)
    matching = TASKS[task].matching(data, (max_dets,))
    entries, matches = matching.detections, matching.matches()
    measured = matching.ground_truth  # to masks, an object that has only a box is a crowd
    kinds = classify_errors(measured, entries, matches, task)
    point = operating_point(kinds, score_threshold)
    return Analysis(
        results=results,
        entries=entries,
        curves=matching.curves(settings.backend),
        matches=matches,
        instances=count_instances(measured),
        kinds=kinds,
        counts=kinds.counts(),
        delta_ap=kinds.delta_ap(),
        point=point,
        operating=find_operating_points(data, task),
        calibration=calibrate(kinds),
        image_counts=image_scores(measured, entries, matches, point.threshold),
        mask_quality=(
            mask_quality(overlaps)
            if overlaps.mask_truth.has_regions and results.has_masks
            else None
        ),
        keypoints=_keypoints(truth, results, settings),
    )


def _keypoints(
    truth: GroundTruth, results: Detections, settings: EvaluationSettings
) -> dict[str, float] | None:
    """COCO's ten numbers by name, in 0 … 1; None without labelled keypoints.

    Raises:
        ConfigError: sigmas, results and ground truth differ in the number of keypoints.
    """
    if not (truth.has_keypoints and results.has_keypoints):
        return None
    records = [e["record"] for e in results.entries if e["record"].get("keypoints")]
    found = Detections(records, truth, results.source)
    data = TaskInput(Overlaps(truth, found), settings, truth.class_names)
    try:
        curves = KEYPOINT_AP.matching(data).curves(settings.backend)
    except ConfigError as error:
        raise ConfigError(f"--oks-sigmas: {error}") from error
    values: dict[str, float] = {}
    for name, measure in (("AP", curves.ap), ("AR", curves.ar)):
        values |= {name: measure(), f"{name}50": measure(0.5), f"{name}75": measure(0.75)}
        values |= {f"{name}m": measure(area="medium"), f"{name}l": measure(area="large")}
    return values if values["AP"] == values["AP"] else None


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, float):
        return None if value != value else round(value, 6)
    return value
