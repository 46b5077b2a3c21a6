# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The evaluation itself: records and ground truth in, numbers out."""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ..coco.index import Detections, GroundTruth, ImageCategory
from ..errors import ConfigError, DataError
from .lvis import frequencies_of, select_federated
from .mask_quality import mask_quality
from .matching import Curves, choose_backend, match
from .metrics import no_predictions, summarize
from .overlaps import Overlaps
from .pck import keypoint_quality
from .settings import MASK_TASKS, EvaluationSettings

__all__ = ["evaluate_records", "tasks_of"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

_KEYPOINT_MAX_DETS = (20,)


def tasks_of(records: list[dict]) -> list[str]:
    """The tasks that the records have what is needed for."""
    tasks = ["bbox"]
    if any("segmentation" in record for record in records):
        tasks += MASK_TASKS
    if any("keypoints" in record for record in records):
        tasks += ["keypoints", "pck"]
    return tasks


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
    tasks = list(settings.tasks or tasks_of(records))
    if not records:
        logger.warning("There are no predictions to evaluate.")
        return OrderedDict((task, no_predictions(task == "keypoints")) for task in tasks)
    detections = Detections(records, ground_truth, source)
    _check_fields(detections, tasks)
    names = class_names or [c.get("name", str(c["id"])) for c in ground_truth.categories]
    overlaps = Overlaps(ground_truth, detections, settings.boundary_dilation)
    results: OrderedDict[str, dict[str, float]] = OrderedDict()
    for task in tasks:
        if task == "mask_quality":
            results[task] = mask_quality(overlaps)
            continue
        if task == "pck":
            results[task] = keypoint_quality(overlaps, names, settings.pck_reference)
            continue
        if task == "keypoints":
            curves = _keypoint_curves(overlaps, settings)
        else:
            curves = _curves(task, overlaps, settings)
        frequencies = None
        if settings.lvis_style and task != "keypoints":
            frequencies = frequencies_of(ground_truth)
        results[task] = summarize(curves, names, frequencies)
    return results


def _check_fields(detections: Detections, tasks: list[str]) -> None:
    needed = {"bbox": "bbox", "pck": "bbox", **dict.fromkeys(MASK_TASKS, "segmentation")}
    for task in (task for task in tasks if task in needed):  # keypoints: those of some classes
        for entry in detections.entries:
            if needed[task] not in entry["record"]:
                raise DataError(
                    f"{detections.source}: task {task!r} needs '{needed[task]}', which a prediction "
                    f"for image id {entry['record']['image_id']!r} does not have."
                )


def _curves(task: str, overlaps: Overlaps, settings: EvaluationSettings) -> Curves:
    ground_truth, detections = overlaps.ground_truth, overlaps.detections
    entries = _scored(task, detections)
    limits: tuple[int, ...]
    if settings.lvis_style:
        entries = select_federated(
            entries, ground_truth, settings.max_dets or 300, settings.lvis_max_per_class
        )
        limits = (max(settings.max_dets or 300, _most_per_pair(entries)),)
        if settings.lvis_max_per_class:
            logger.info(f"{task}: the best {settings.lvis_max_per_class} of every class count.")
    else:
        most = detections.most_per_image()
        limits = _limits(settings.max_dets or max(100, most))
        if limits[-1] < most:
            logger.warning(f"{task}: an image has {most} detections; the limit is {limits[-1]}.")
    if limits[-1] != 100:
        logger.info(f"{task}: up to {limits[-1]} detections of a category count in an image.")
    return match(
        ground_truth.objects,
        entries,
        lambda pair: overlaps.of(task, pair),
        num_images=len(ground_truth.image_ids),
        num_categories=len(ground_truth.category_ids),
        max_dets=limits,
        backend=choose_backend(settings.backend),
    )


def _limits(most: int) -> tuple[int, ...]:
    return tuple(number for number in (1, 10) if number < most) + (most,)


def _most_per_pair(entries: list[dict]) -> int:
    counts: dict[ImageCategory, int] = {}
    for entry in entries:
        pair = (entry["image_id"], entry["category_id"])
        counts[pair] = counts.get(pair, 0) + 1
    return max(counts.values(), default=1)


def _scored(task: str, detections: Detections) -> list[dict]:
    """New entries with the score and the area by which the task takes them."""
    entries = detections.entries
    areas: Sequence[float]
    if task in MASK_TASKS:
        scores = [e["record"].get("mask_score", e["record"]["score"]) for e in entries]
        areas = detections.mask_areas()
    else:
        scores = [entry["record"]["score"] for entry in entries]
        areas = [_box_area(entry["record"]) for entry in entries]
    return [
        {**entry, "score": score, "area": area, "record": None}
        for entry, score, area in zip(entries, scores, areas)
    ]


def _box_area(record: dict) -> float:
    """Of the box; of the keypoints' extent if there is no box, as pycocotools has it."""
    if record.get("bbox"):
        return record["bbox"][2] * record["bbox"][3]
    x, y = record["keypoints"][0::3], record["keypoints"][1::3]
    return (max(x) - min(x)) * (max(y) - min(y))


def _keypoint_curves(overlaps: Overlaps, settings: EvaluationSettings) -> Curves:
    ground_truth, detections = overlaps.ground_truth, overlaps.detections
    sigmas = _check_sigmas(ground_truth, detections, settings)
    known = {number: values for number, values in sigmas.items() if values is not None}
    objects = [{**entry, "num_keypoints": _num_keypoints(entry)} for entry in ground_truth.objects]
    # A category without keypoints has nothing to find. Its detections have no part in this.
    entries = _scored("keypoints", detections)
    return match(
        [entry for entry in objects if entry["category_id"] in known],
        [entry for entry in entries if entry["category_id"] in known],
        lambda pair: overlaps.keypoints(pair, known[pair[1]]),
        num_images=len(ground_truth.image_ids),
        num_categories=len(ground_truth.category_ids),
        max_dets=_KEYPOINT_MAX_DETS,
        keypoints=True,
        backend=choose_backend(settings.backend),
    )


def _num_keypoints(entry: dict) -> int:
    annotation = entry["annotation"]
    visible = int(np.count_nonzero(np.array(annotation.get("keypoints") or [0])[2::3] > 0))
    return annotation.get("num_keypoints", visible)


def _check_sigmas(
    ground_truth: GroundTruth, detections: Detections, settings: EvaluationSettings
) -> dict[int, np.ndarray | None]:
    """Sigmas of each category by number; None for one that has no keypoints in the json."""
    counts: dict[int, int] = {}
    for entry in ground_truth.objects:
        number = len(entry["annotation"].get("keypoints") or ()) // 3
        if number:
            counts.setdefault(entry["category_id"], number)
    predicted: dict[int, set[int]] = defaultdict(set)
    for entry in detections.entries:
        number = len(entry["record"].get("keypoints") or ()) // 3
        predicted[entry["category_id"]].add(number)
    sigmas: dict[int, np.ndarray | None] = {}
    for category, number in zip(ground_truth.categories, ground_truth.category_number.values()):
        values = settings.sigmas_of(category) if number in counts else None
        sigmas[number] = values
        if values is None:
            continue
        name = category.get("name", category["id"])
        found = predicted[number]
        # A dict may leave room for more: the first keypoints are then those of the category.
        exact = found <= {len(values)}
        enough = isinstance(settings.sigmas, Mapping) and min(found, default=0) >= len(values)
        if len(values) != counts[number] or not (exact or enough):
            raise ConfigError(
                f"category '{name}' has {counts[number]} keypoints in {ground_truth.source}, "
                f"predictions have {', '.join(map(str, sorted(found)))}, and there are "
                f"{len(values)} sigmas; the three have to agree. Set TEST.KEYPOINT_OKS_SIGMAS, the "
                "evaluator's kpt_oks_sigmas, or the data set's metadata keypoint_oks_sigmas."
            )
    return sigmas
