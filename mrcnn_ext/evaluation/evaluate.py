# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The evaluation itself: records and ground truth in, numbers out."""

from __future__ import annotations

import logging
from collections import OrderedDict

from ..coco.index import Detections, GroundTruth, has_mask
from ..coco.read import missing_masks
from ..errors import DataError
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
        DataError: predictions do not fit the ground truth, or it lacks masks that a task needs.
        ConfigError: keypoint sigmas do not fit.
    """
    tasks = choose_tasks(settings.tasks, records)
    if not records:
        logger.warning("There are no predictions to evaluate.")
        return OrderedDict(
            (task.name, task.without_predictions(ground_truth, settings)) for task in tasks
        )
    if not ground_truth.objects:
        logger.warning(
            f"{ground_truth.source} has no annotation to evaluate with: no number exists."
        )
    detections = Detections(records, ground_truth, source)
    for task in tasks:
        task.check(detections)
    if any(task.of_masks for task in tasks):
        _look_for_masks(ground_truth, settings.boxes_only)
    overlaps = Overlaps(
        ground_truth, detections, settings.boundary_dilation, boxes_only=settings.boxes_only
    )
    data = TaskInput(overlaps, settings, class_names or ground_truth.class_names)
    return OrderedDict((task.name, task.evaluate(data)) for task in tasks)


def _look_for_masks(truth: GroundTruth, boxes_only: bool) -> None:
    """Say how many objects have no mask, or refuse them."""
    problem = missing_masks(entry["annotation"] for entry in truth.objects)
    if not problem:
        return
    if not boxes_only:
        raise DataError(
            f"{truth.source}: {problem}. Masks are evaluated without those objects by "
            "MRCNN_EXT.DATA.BOXES_ONLY True in a config, the evaluator's argument boxes_only=True, or "
            "the option --boxes-only."
        )
    if not any(map(has_mask, truth.objects)):
        logger.warning(f"{truth.source}: no object has a mask: no number of masks exists.")
        return
    logger.info(
        f"{truth.source}: {truth.num_without_mask} of {truth.num_instances} objects have a box and no "
        "mask. A predicted mask in such a box is neither right nor wrong."
    )
