# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Kinds of errors and what each costs, as TIDE defines them.

Bolya, Foley, Hays, Hoffman: TIDE: A General Toolbox for Identifying Object Detection Errors. ECCV 2020,
https://arxiv.org/abs/2008.08115. Written from the paper; docs/report.md has the definitions, and where
the paper leaves a choice, the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_util

from ..coco.index import GroundTruth
from ..evaluation.matching import Matches

__all__ = [
    "BACKGROUND_IOU",
    "FOREGROUND_IOU",
    "KINDS",
    "ErrorKinds",
    "average_precision",
    "classify_errors",
]

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.1

# What a detection is: the numbers in ErrorKinds.kind.
IGNORED, RIGHT, CLS, LOC, BOTH, DUP, BKG = range(-1, 6)
FALSE_KINDS = ("cls", "loc", "both", "dup", "bkg")
KINDS = (*FALSE_KINDS, "miss")
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass
class ErrorKinds:
    """Every detection and every annotation, sorted into kinds.

    Attributes:
        kind: int8 (D,): IGNORED, RIGHT, CLS, LOC, BOTH, DUP or BKG, for detection ``id - 1``.
        target: int64 (D,): for CLS and LOC the index of the annotation that was meant; else -1.
        missed: bool (G,): not found, and no CLS or LOC error is about it.
        not_found: bool (G,): matched by no detection; crowds are not counted.
        classes: int64 (D,), index of the class.
        truth_classes: int64 (G,).
        counted: bool (G,): no crowd.
        scores: float64 (D,).
    """

    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray
    not_found: np.ndarray
    classes: np.ndarray
    truth_classes: np.ndarray
    counted: np.ndarray
    scores: np.ndarray
    num_classes: int

    def counts(self) -> dict[str, int]:
        """How many errors of each kind."""
        out = {name: int((self.kind == CLS + i).sum()) for i, name in enumerate(FALSE_KINDS)}
        return {**out, "miss": int(self.missed.sum())}

    def counts_of_class(self, index: int) -> dict[str, int]:
        """False detections by the class they claim, misses by the class that was missed."""
        own = self.classes == index
        out = {
            name: int((own & (self.kind == CLS + i)).sum()) for i, name in enumerate(FALSE_KINDS)
        }
        return {**out, "miss": int((self.missed & (self.truth_classes == index)).sum())}

    def base_ap(self) -> float:
        """AP at the foreground IoU, in 0 … 1; NaN without any instance."""
        return self._mean_ap(self.classes, self.kind == RIGHT, self.kind != IGNORED, self.counted)

    def delta_ap(self) -> dict[str, float]:
        """How far AP would rise if an oracle fixed one kind, by the names in KINDS, and if there were
        no false positives ("fp") or no false negatives ("fn"); in 0 … 1."""
        base = self.base_ap()
        out = {name: self._fixed_ap(CLS + i) - base for i, name in enumerate(FALSE_KINDS)}
        right, kept = self.kind == RIGHT, self.kind != IGNORED
        args = self.classes, right
        out["miss"] = self._mean_ap(*args, kept, self.counted & ~self.missed) - base
        out["fp"] = self._mean_ap(*args, right, self.counted) - base
        out["fn"] = self._mean_ap(*args, kept, self.counted & ~self.not_found) - base
        return out

    def _fixed_ap(self, kind: int) -> float:
        """AP with the errors of one kind made right where that is possible, and dropped elsewhere."""
        right, kept, classes = self.kind == RIGHT, self.kind != IGNORED, self.classes
        wrong = self.kind == kind
        kept = kept & ~wrong
        if kind in (CLS, LOC):
            fixed = self._one_per_annotation(np.flatnonzero(wrong))
            classes = classes.copy()
            classes[fixed] = self.truth_classes[self.target[fixed]]
            right[fixed] = kept[fixed] = True
        return self._mean_ap(classes, right, kept, self.counted)

    def _one_per_annotation(self, rows: np.ndarray) -> np.ndarray:
        """Of detections that are about the same annotation the best; none if it is found already."""
        rows = rows[self.not_found[self.target[rows]]]
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        return rows[np.unique(self.target[rows], return_index=True)[1]]

    def _mean_ap(
        self, classes: np.ndarray, right: np.ndarray, kept: np.ndarray, wanted: np.ndarray
    ) -> float:
        values = []
        for index in range(self.num_classes):
            of_class = self.truth_classes == index
            if not (of_class & self.counted).any():
                continue  # COCO's mean is over classes that have instances
            rows = kept & (classes == index)
            number = int((of_class & wanted).sum())
            values.append(average_precision(self.scores[rows], right[rows], number))
        return float(np.mean(values)) if values else float("nan")


def average_precision(scores: np.ndarray, right: np.ndarray, number: int) -> float:
    """COCO's AP: the mean of the interpolated precision at 101 recalls.

    Args:
        scores: (D,).
        right: bool (D,).
        number: of instances to be found. With none left, AP is 1 if there are no detections either,
            and 0 otherwise: the limits of finding the last one.
    """
    if number == 0:
        return float(len(scores) == 0)
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(right[order])
    recall = found / number
    precision = found / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(index, len(precision))].mean())


def classify_errors(
    truth: GroundTruth, entries: list[dict], matches: Matches, task: str
) -> ErrorKinds:
    """Sort detections and objects into kinds.

    Args:
        entries: detections with their scores, see :class:`~.analysis.Analysis`.
        matches: of the same task, at the foreground IoU.
        task: "bbox" or "segm", whose IoU is used.
    """
    classes = np.array([d["category_id"] for d in entries], dtype=np.int64) - 1
    truth_classes = np.array([o["category_id"] for o in truth.objects], dtype=np.int64) - 1
    counted = np.array([not o["iscrowd"] for o in truth.objects], dtype=bool)
    kind = np.full(len(classes), BKG, dtype=np.int8)
    target = np.full(len(classes), -1, dtype=np.int64)
    truth_rows = _rows_by_image(truth.objects, counted)
    false = (matches.object_id == 0) & ~matches.ignored
    for image, rows in _rows_by_image(entries, false).items():
        columns = truth_rows.get(image)
        if columns is None:
            continue
        found = [entries[i]["record"] for i in rows]
        objects = [truth.objects[j] for j in columns]
        if task == "bbox":
            iou = mask_util.iou(
                *([o["bbox"] for o in s] for s in (found, objects)), [0] * len(objects)
            )
        else:
            masks = [record["segmentation"] for record in found]
            iou = mask_util.iou(masks, [truth.rle(o) for o in objects], [0] * len(objects))
        same = classes[rows][:, None] == truth_classes[columns]
        kind[rows], best = _kinds(iou, same)
        target[rows] = np.where(best >= 0, columns[best], -1)
    kind[matches.object_id > 0] = RIGHT
    kind[matches.ignored] = IGNORED
    not_found = counted & (matches.detection_id == 0)
    missed = not_found.copy()
    missed[target[target >= 0]] = False
    scores = np.array([d["score"] for d in entries], dtype=np.float64)
    return ErrorKinds(
        kind, target, missed, not_found, classes, truth_classes, counted, scores,
        len(truth.categories),
    )  # fmt: skip


def _rows_by_image(entries: list[dict], wanted: np.ndarray) -> dict[int, np.ndarray]:
    rows: dict[int, list[int]] = {}
    for row in np.flatnonzero(wanted).tolist():
        rows.setdefault(entries[row]["image_id"], []).append(row)
    return {image: np.array(found) for image, found in rows.items()}


def _kinds(iou: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kinds of unmatched detections from IoU and equality of class with all annotations, (D, G).

    Returns:
        the kinds (D,), and the column that a CLS or LOC error is about, else -1.
    """
    own, other = np.where(same, iou, -1.0), np.where(same, -1.0, iou)
    best_own, best_other = own.max(axis=1), other.max(axis=1)
    best = np.maximum(best_own, best_other)
    # The first that holds. A detection that is unmatched though it overlaps its class enough has
    # been forestalled by a better one.
    conditions = [
        (best_own >= BACKGROUND_IOU) & (best_own < FOREGROUND_IOU),
        best_other >= FOREGROUND_IOU,
        best_own >= FOREGROUND_IOU,
        best < BACKGROUND_IOU,
    ]
    kinds = np.select(conditions, [LOC, CLS, DUP, BKG], default=BOTH)
    column = np.select([kinds == LOC, kinds == CLS], [own.argmax(1), other.argmax(1)], default=-1)
    return kinds, column
