# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""AP and its relatives, all from pycocotools' COCOeval, and which detection matched what at IoU 0.5."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval

from .load import GroundTruth, Results, coco_from

__all__ = ["AREAS", "Evaluation", "Matches", "evaluate", "evaluate_keypoints", "match_boxes"]

AREAS = ("all", "small", "medium", "large")
_SMALL, _LARGE = 32**2, 96**2  # pixels; COCO's


@dataclass
class Matches:
    """What COCOeval matched at IoU 0.5, whatever the size.

    Attributes:
        truth_id: int64 (D,), for detection ``id - 1`` the id of the annotation it matched; 0: none.
        ignored: bool (D,): it is neither right nor wrong, as it lies in a crowd of its class.
        detection_id: int64 (G,), for annotation ``id - 1`` the detection it matched; 0: none.
    """

    truth_id: np.ndarray
    ignored: np.ndarray
    detection_id: np.ndarray


@dataclass
class Evaluation:
    """COCOeval's arrays for one result file.

    Attributes:
        precision: (T, R, K, A) at IoU 0.5, 0.55 … 0.95, at recall 0, 0.01 … 1, per class, per size
            (see AREAS); -1 where there is no instance.
        recall: (T, K, A), the highest.
        instances: (K, A), annotations that are not ignored.
        matches: at IoU 0.5.
    """

    precision: np.ndarray
    recall: np.ndarray
    instances: np.ndarray
    matches: Matches

    def ap(self, iou: float | None = None, area: str = "all", category: int | None = None) -> float:
        """In 0 … 1; NaN where there is no instance. ``iou`` None is the mean over all thresholds."""
        return _mean(self._pick(self.precision, iou, area, category))

    def ar(self, area: str = "all", category: int | None = None) -> float:
        """Average recall, as :meth:`ap`."""
        return _mean(self._pick(self.recall, None, area, category))

    def curve(self, iou: float | None = None, category: int | None = None) -> np.ndarray:
        """Precision (101,) at recall 0 … 1, the mean over classes that have instances."""
        values = self._pick(self.precision, iou, "all", category)  # (T, R, K)
        kept = values[:, :, (values > -1).all(axis=(0, 1))]
        return kept.mean(axis=(0, 2)) if kept.size else np.full(values.shape[1], np.nan)

    @staticmethod
    def _pick(values: np.ndarray, iou: float | None, area: str, category: int | None) -> np.ndarray:
        values = values[..., AREAS.index(area)]
        if iou is not None:
            first = round((iou - 0.5) / 0.05)
            values = values[first : first + 1]
        return values if category is None else values[..., category : category + 1]


def evaluate(truth: GroundTruth, results: Results, task: str, max_dets: int) -> Evaluation:
    """
    Args:
        task: "bbox" or "segm".
        max_dets: detections of a class that count in an image, the highest scores first.
    """
    evaluator = _evaluator(truth, results, task)
    evaluator.params.maxDets = [max_dets]
    _run(evaluator, accumulate=True)
    instances = np.zeros((len(truth.categories), len(AREAS)), dtype=np.int64)
    index = {c["id"]: k for k, c in enumerate(truth.categories)}
    for entry in truth.annotations:
        if not entry["iscrowd"]:
            k, area = index[entry["category_id"]], entry["area"]
            instances[k] += [1, area <= _SMALL, _SMALL <= area <= _LARGE, area >= _LARGE]
    return Evaluation(
        precision=evaluator.eval["precision"][..., 0],
        recall=evaluator.eval["recall"][..., 0],
        instances=instances,
        matches=_matches(evaluator, truth, results),
    )


def match_boxes(truth: GroundTruth, results: Results, max_dets: int) -> Matches:
    """Detections and annotations whose boxes COCOeval matches at IoU 0.5."""
    evaluator = _evaluator(truth, results, "bbox")
    evaluator.params.maxDets = [max_dets]
    evaluator.params.iouThrs = np.array([0.5])
    evaluator.params.areaRng = evaluator.params.areaRng[:1]
    evaluator.params.areaRngLbl = evaluator.params.areaRngLbl[:1]
    _run(evaluator, accumulate=False)
    return _matches(evaluator, truth, results)


def evaluate_keypoints(
    truth: GroundTruth, results: Results, sigmas: Mapping[int, np.ndarray]
) -> dict[str, float]:
    """AP by object keypoint similarity, COCO's ten numbers by name, in 0 … 1; NaN: no instance.

    Args:
        sigmas: of each category that counts. The numbers are the means over these categories.
    """
    names = "AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl".split()
    stats = []
    for category, values in sigmas.items():
        evaluator = _keypoint_evaluator(truth, results, category, values)
        _run(evaluator, accumulate=True)
        _quiet(evaluator.summarize)
        stats.append([v if v >= 0 else np.nan for v in evaluator.stats])
    return {name: _known_mean(column) for name, column in zip(names, zip(*stats))}


def _known_mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")


def _keypoint_evaluator(
    truth: GroundTruth, results: Results, category: int, sigmas: np.ndarray
) -> COCOeval:
    nothing = [0] * (3 * len(sigmas))
    annotations = [
        {**a, "keypoints": a.get("keypoints") or nothing}
        for a in truth.annotations
        if a["category_id"] == category
    ]
    for entry in annotations:
        entry["num_keypoints"] = sum(v > 0 for v in entry["keypoints"][2::3])
    detections = [
        {**d, "area": d["bbox"][2] * d["bbox"][3]}
        for d in results.detections
        if d["category_id"] == category and d.get("keypoints")
    ]
    evaluator = _quiet(
        COCOeval, coco_from(truth, annotations), coco_from(truth, detections), "keypoints"
    )
    evaluator.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=float)
    evaluator.params.catIds = [category]
    return evaluator


# ----------------------------------------------------------------------------------------- helpers


def _evaluator(truth: GroundTruth, results: Results, task: str) -> COCOeval:
    # What size a detection has: that of its mask or that of its box, as in Detectron2.
    if task == "segm":
        # One at a time: pycocotools 2.0.11 fails with lists of more than 255.
        areas = [float(mask_util.area(d["segmentation"])) for d in results.detections]
    else:
        areas = [d["bbox"][2] * d["bbox"][3] for d in results.detections]
    detections = [{**d, "area": area} for d, area in zip(results.detections, areas)]
    return _quiet(COCOeval, coco_from(truth, truth.annotations), coco_from(truth, detections), task)


def _quiet(function, *args):
    """pycocotools prints its progress."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


def _run(evaluator: COCOeval, accumulate: bool) -> None:
    _quiet(evaluator.evaluate)
    if accumulate:
        _quiet(evaluator.accumulate)


def _matches(evaluator: COCOeval, truth: GroundTruth, results: Results) -> Matches:
    params = evaluator.params
    truth_id = np.zeros(len(results.detections), dtype=np.int64)
    ignored = np.zeros(len(results.detections), dtype=bool)
    detection_id = np.zeros(len(truth.annotations), dtype=np.int64)
    per_class = len(params.areaRng) * len(params.imgIds)
    for k in range(len(params.catIds)):
        first = k * per_class  # the first of a class's sizes is "all"
        for entry in evaluator.evalImgs[first : first + len(params.imgIds)]:
            if entry is None or not len(entry["dtIds"]):
                continue
            rows = np.asarray(entry["dtIds"], dtype=np.int64) - 1
            skip = np.asarray(entry["dtIgnore"][0], dtype=bool)
            matched = np.asarray(entry["dtMatches"][0], dtype=np.int64)
            truth_id[rows] = np.where(skip, 0, matched)
            ignored[rows] = skip
            found = rows[~skip & (matched > 0)]
            detection_id[truth_id[found] - 1] = found + 1
    return Matches(truth_id, ignored, detection_id)


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")
