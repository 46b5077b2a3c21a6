# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The evaluation itself: records and ground truth in, numbers out."""

from __future__ import annotations

import logging
from collections import OrderedDict

from ..coco.index import Detections, GroundTruth
from .overlaps import Overlaps
from .settings import EvaluationSettings
from .tasks import TaskInput, choose_tasks

__all__ = ["evaluate_records"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


def evaluate_records(
    records: list[dict],
    ground_truth: GroundTruth,
    settings: EvaluationSettings,
    *,
    class_names: list[str] | None = None,
    source: str = "",
) -> OrderedDict[str, dict[str, float]]:
    """Evaluate predictions in COCO's result format.

    Args:
        records: dicts with "image_id", "category_id", "score", "bbox" (XYWH), and as the tasks need
            "segmentation" (RLE), "keypoints" (3 K numbers), "mask_score".
        ground_truth: what is right.
        settings: tasks and rules.
        class_names: one a category, in the order of ids; the json's by default.
        source: name of the results' file, for messages.

    Returns:
        task -> metric -> value in percent, see docs/evaluation.md.

    Raises:
        DataError: predictions do not fit the ground truth.
        ConfigError: keypoint sigmas do not fit.
    """
    tasks = choose_tasks(settings.tasks, records)
    if not records:
        logger.warning("There are no predictions to evaluate.")
        return OrderedDict((task.name, task.nothing()) for task in tasks)
    if not ground_truth.objects:
        logger.warning(
            f"{ground_truth.source} has no annotation to evaluate with: no number exists."
        )
    detections = Detections(records, ground_truth, source)
    for task in tasks:
        task.check(detections)
    overlaps = Overlaps(ground_truth, detections, settings.boundary_dilation)
    data = TaskInput(overlaps, settings, class_names or ground_truth.class_names)
    return OrderedDict((task.name, task.evaluate(data)) for task in tasks)
