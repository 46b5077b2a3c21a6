# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""COCO's average precision and recall, of boxes and masks; with LVIS's rules if they are asked for."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

import numpy as np

from ...coco.areas import AREA_LETTERS
from ...coco.index import Detections, ImageCategory
from ..lvis import FREQUENCIES, frequencies_of, most_per_pair, select_federated
from ..matching import Curves, Matching
from ..overlaps import Overlaps
from .task import Task, TaskInput, register_task

__all__ = ["BOX_AP", "MASK_AP", "AveragePrecision", "summarize"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


# Those that not every evaluation has: recall, by LVIS's frequencies
_MORE_METRICS = re.compile(r"AR@\d+|AR[sml]|AP[rcf]")


class AveragePrecision(Task):
    """AP and AR by one kind of overlap."""

    metrics: tuple[str, ...] = ("AP", "AP50", "AP75", "APs", "APm", "APl")

    def __init__(
        self,
        name: str,
        needs: tuple[str, ...],
        overlap: Callable[[Overlaps, ImageCategory], np.ndarray],
    ) -> None:
        """
        Args:
            name, needs: see :class:`Task`. If it needs "segmentation", detections have the area of
                their masks and rank by "mask_score", where there is one.
            overlap: a method of :class:`Overlaps`.
        """
        self.name = name
        self.needs = needs
        self.overlap = overlap

    def evaluate(self, data: TaskInput) -> dict[str, float]:
        frequencies = frequencies_of(data.ground_truth) if data.settings.lvis_style else None
        curves = self.matching(data).curves(data.settings.backend)
        results = summarize(curves, data.class_names, frequencies)
        return results | data.count_without_mask() if self.of_masks else results

    def can_have(self, metric: str, class_names: Sequence[str] | None) -> bool:
        if class_names is not None and len(class_names) == 1 and "-" in metric:
            return False  # the one class is all
        return bool(_MORE_METRICS.fullmatch(metric)) or super().can_have(metric, class_names)

    def matching(self, data: TaskInput, max_dets: Sequence[int] | None = None) -> Matching:
        """What is to be matched.

        Args:
            max_dets: numbers of detections of a category in an image, ascending, instead of those of
                the settings; no rules of LVIS then.
        """
        entries = self.scored(data.detections)
        if max_dets is None:
            entries, max_dets = self._limited(entries, data)
        truth = data.overlaps.mask_truth if self.of_masks else data.ground_truth
        return Matching(
            truth,
            truth.objects,
            entries,
            lambda pair: self.overlap(data.overlaps, pair),
            tuple(max_dets),
        )

    def scored(self, detections: Detections) -> list[dict]:
        """New entries with the score and the area by which the task takes them."""
        entries = detections.entries
        areas: Sequence[float]
        if self.of_masks:
            scores = [e["record"].get("mask_score", e["record"]["score"]) for e in entries]
            areas = detections.mask_areas()
        else:
            scores = [entry["record"]["score"] for entry in entries]
            areas = [_box_area(entry["record"]) for entry in entries]
        return [
            {**entry, "score": score, "area": area}
            for entry, score, area in zip(entries, scores, areas)
        ]

    def _limited(self, entries: list[dict], data: TaskInput) -> tuple[list[dict], tuple[int, ...]]:
        """The detections that count, and how many of them in an image and category."""
        settings = data.settings
        limits: tuple[int, ...]
        if settings.lvis_style:
            most = settings.max_dets or 300
            entries = select_federated(
                entries, data.ground_truth, most, settings.lvis_max_per_class
            )
            limits = (max(most, most_per_pair(entries)),)
            if settings.lvis_max_per_class:
                logger.info(
                    f"{self.name}: the best {settings.lvis_max_per_class} of every class count."
                )
        else:
            most = data.detections.most_per_image()
            limit = settings.max_dets or max(100, most)
            limits = (*(number for number in (1, 10) if number < limit), limit)
            if limit < most:
                logger.warning(
                    f"{self.name}: an image has {most} detections; the limit is {limit}."
                )
        if limits[-1] != 100:
            logger.info(
                f"{self.name}: up to {limits[-1]} detections of a category count in an image."
            )
        return entries, limits


def summarize(
    curves: Curves, class_names: Sequence[str], frequencies: Sequence[str] | None = None
) -> dict[str, float]:
    """AP and AR in percent, by Detectron2's names.

    Args:
        curves: of one task.
        class_names: one a category; AP per class is given when there are several.
        frequencies: "r", "c" or "f" for each category, of LVIS.

    Returns:
        "AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf" as far as there is such a
        thing, "AR@1" … and "ARs" …, "AP-<class>"; NaN where no object is.
    """
    results = {"AP": curves.ap(), "AP50": curves.ap(0.5), "AP75": curves.ap(0.75)}
    sizes = {name: letter for name, letter in AREA_LETTERS.items() if name in curves.areas}
    for name, letter in sizes.items():
        results[f"AP{letter}"] = curves.ap(area=name)
    if frequencies:
        for frequency, key in FREQUENCIES.items():
            chosen = [index for index, f in enumerate(frequencies) if f == frequency]
            results[key] = curves.ap(category=chosen)
    for index, number in enumerate(curves.max_dets):
        results[f"AR@{number}"] = curves.ar(limit=index)
    for name, letter in sizes.items():
        results[f"AR{letter}"] = curves.ar(area=name)
    if len(class_names) > 1:
        for index, name in enumerate(class_names):
            results[f"AP-{name}"] = curves.ap(category=[index])
    return {key: 100 * value for key, value in results.items()}


def _box_area(record: dict) -> float:
    """Of the box; of the keypoints' extent if there is no box, as pycocotools has it."""
    if record.get("bbox"):
        return record["bbox"][2] * record["bbox"][3]
    x, y = record["keypoints"][0::3], record["keypoints"][1::3]
    return (max(x) - min(x)) * (max(y) - min(y))


BOX_AP = AveragePrecision("bbox", ("bbox",), Overlaps.boxes)
MASK_AP = AveragePrecision("segm", ("segmentation",), Overlaps.masks)
register_task(BOX_AP)
register_task(MASK_AP)
