# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Score thresholds for use: of each class the one with the best F1, or with a wanted precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ...coco.index import GroundTruth
from ...errors import ConfigError
from ..confusion import confusion_matrix
from ..matching import Matches
from .ap import BOX_AP, MASK_AP
from .task import Task, TaskInput, register_task

__all__ = ["ClassPoint", "OperatingPoint", "OperatingPoints", "choose_point"]
__all__ += ["find_operating_points"]

IOU = 0.5  # from which on a detection is right


@dataclass(frozen=True)
class OperatingPoint:
    """A score threshold and what the detections at or above it are worth, at IoU 0.5."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassPoint(OperatingPoint):
    """Of one class.

    Attributes:
        objects: of the class, without crowds.
        detections: of the class at or above the threshold, without those in crowds.
        reached: the wanted precision is reached; True where none was wanted.
    """

    objects: int
    detections: int
    reached: bool = True


@dataclass(frozen=True)
class OperatingPoints:
    """Of one result file.

    Attributes:
        task: "segm" or "bbox", whose IoU was taken.
        precision: the one that was wanted; None: the best F1.
        overall: one threshold for all classes, for those that have none of their own.
        of_class: by class, None for one without objects or without detections.
        total: precision, recall and F1 over all classes at their own thresholds; its threshold is
            that of ``overall``.
        confusion: int64 (K + 1, K + 1), see :func:`~mrcnn_ext.evaluation.confusion.confusion_matrix`.
        all_kept: classes whose detections all are at or above their threshold: a better one may be
            lower, if the file leaves out what scores less.
    """

    task: str
    precision: float | None
    overall: OperatingPoint
    of_class: list[ClassPoint | None]
    total: OperatingPoint
    confusion: np.ndarray
    all_kept: list[int]

    def missed(self) -> list[int]:
        """Classes that do not reach the wanted precision at any threshold."""
        return [k for k, p in enumerate(self.of_class) if p is not None and not p.reached]


def choose_point(
    scores: np.ndarray,
    right: np.ndarray,
    number: int,
    *,
    threshold: float | None = None,
    precision: float | None = None,
    between: bool = False,
) -> OperatingPoint:
    """The threshold of the highest F1 or of a wanted precision, or what is at a given one.

    Args:
        scores: (D,).
        right: bool (D,).
        number: of objects that can be found.
        threshold: take this one.
        precision: take the lowest threshold from which on it is reached, which finds the most; where
            none is, that of the highest precision.
        between: take the middle between the last score that is kept and the next one, so that
            rounding does not matter; else the last score itself.
    """
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    f1 = 2 * found / np.maximum(np.arange(1, len(scores) + 1) + number, 1)
    if threshold is None:
        # Between equal scores no threshold can be.
        possible = np.append(scores[1:] != scores[:-1], True) if len(scores) else np.zeros(0, bool)
        at = _best(found, f1, possible, precision) if len(scores) else -1
        threshold = float(scores[at]) if len(scores) else 0.5
        if between and 0 <= at < len(scores) - 1:
            threshold = float((scores[at] + scores[at + 1]) / 2)
    else:
        at = int((scores >= threshold).sum()) - 1
    if at < 0:
        return OperatingPoint(threshold, float("nan"), 0.0 if number else float("nan"), 0.0)
    recall = float(found[at] / number) if number else float("nan")
    return OperatingPoint(threshold, float(found[at] / (at + 1)), recall, float(f1[at]))


def _best(found: np.ndarray, f1: np.ndarray, possible: np.ndarray, precision: float | None) -> int:
    if precision is None:
        return int(np.where(possible, f1, -1.0).argmax())
    precisions = np.where(possible, found / np.arange(1, len(found) + 1), -1.0)
    reached = np.flatnonzero(precisions >= precision)
    if len(reached):
        return int(reached[-1])
    return int(np.flatnonzero(precisions == precisions.max())[-1])


def find_operating_points(
    data: TaskInput, task: str | None = None, *, precision: float | None = None
) -> OperatingPoints:
    """Thresholds of all classes, and the confusion matrix at them.

    Detections count by their "score", which ``predict`` compares with the thresholds, also where masks
    have a score of their own.

    Args:
        data: of the evaluation.
        task: "segm" or "bbox"; None: masks, where all objects and detections have one.
        precision: wanted, in 0 … 1; None: the best F1.

    Raises:
        ConfigError: the precision is not in 0 … 1.
    """
    if precision is not None and not 0 < precision <= 1:
        raise ConfigError(f"the precision is {precision}; expected more than 0, and at most 1.")
    if task is None:
        regions = data.overlaps.mask_truth.has_regions
        task = "segm" if regions and data.detections.has_masks else "bbox"
    # To masks, an object that has only a box is a crowd.
    truth, entries, matches = _matched(data, task)
    scores = np.array([entry["score"] for entry in entries], dtype=np.float64)
    classes = np.array([entry["category_id"] for entry in entries], dtype=np.int64) - 1
    right, kept = matches.object_id > 0, ~matches.ignored
    counts = _objects(truth)

    def chosen(rows: np.ndarray, number: int) -> OperatingPoint:
        return choose_point(scores[rows], right[rows], number, precision=precision, between=True)

    overall = chosen(kept, int(counts.sum()))
    points: list[ClassPoint | None] = []
    all_kept: list[int] = []
    for index, number in enumerate(counts.tolist()):
        rows = kept & (classes == index)
        if not number or not rows.any():
            points.append(None)
            continue
        point = chosen(rows, number)
        above = int((rows & (scores >= point.threshold)).sum())
        reached = precision is None or point.precision >= precision
        points.append(ClassPoint(**vars(point), objects=number, detections=above, reached=reached))
        if above == rows.sum():
            all_kept.append(index)
    limits = np.array([overall.threshold if p is None else p.threshold for p in points])
    taken = kept & (scores >= limits[classes])
    return OperatingPoints(
        task=task,
        precision=precision,
        overall=overall,
        of_class=points,
        total=_total(overall.threshold, int((taken & right).sum()), int(taken.sum()), counts),
        confusion=confusion_matrix(truth, entries, matches, taken, task),
        all_kept=all_kept,
    )


def _matched(data: TaskInput, task: str) -> tuple[GroundTruth, list[dict], Matches]:
    """The objects, detections with their scores, and what they found."""
    measure = MASK_AP if task == "segm" else BOX_AP
    most = max(100, data.detections.most_per_pair())
    matching = measure.matching(data, (most,))
    entries = [{**entry, "score": entry["record"]["score"]} for entry in matching.detections]
    return matching.ground_truth, entries, replace(matching, detections=entries).matches(IOU)


def _objects(truth: GroundTruth) -> np.ndarray:
    """(K,) objects of each class, without crowds."""
    classes = [entry["category_id"] - 1 for entry in truth.objects if not entry["iscrowd"]]
    return np.bincount(np.array(classes, dtype=np.int64), minlength=len(truth.categories))


def _total(threshold: float, found: int, taken: int, counts: np.ndarray) -> OperatingPoint:
    number = int(counts.sum())
    return OperatingPoint(
        threshold,
        found / taken if taken else float("nan"),
        found / number if number else float("nan"),
        2 * found / (taken + number) if taken + number else 0.0,
    )


class OperatingPointTask(Task):
    """Precision, recall and F1 at the thresholds of the best F1, one a class; only where it is named.

    "F1-<class>", "threshold-<class>" … where there are several classes; "threshold" is that of all
    classes together. All in percent.
    """

    name = "operating_point"
    needs = ("bbox",)
    metrics = ("F1", "precision", "recall", "threshold")

    def applies_to(self, records: Iterable[dict]) -> bool:
        return False  # a threshold is asked for

    def evaluate(self, data: TaskInput) -> dict[str, float]:
        points = find_operating_points(data)
        results = _percent(points.total)
        if len(points.of_class) > 1:
            for name, point in zip(data.class_names, points.of_class):
                values = self.nothing() if point is None else _percent(point)
                results |= {f"{metric}-{name}": value for metric, value in values.items()}
        return results


def _percent(point: OperatingPoint) -> dict[str, float]:
    values = {"F1": point.f1, "precision": point.precision, "recall": point.recall}
    return {name: 100 * value for name, value in (values | {"threshold": point.threshold}).items()}


register_task(OperatingPointTask())
