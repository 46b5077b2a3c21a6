# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Match detections to objects; precision over recall, by faster-coco-eval or by pycocotools.

Both are given the overlaps and do the rest. Everything that this package adds (boundaries, scores of
masks, LVIS's rules) is a matter of what they are given, so that one does as well as the other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval

from .._moved import moved_names
from ..coco.areas import AP_AREAS, AREA_NAMES
from ..coco.index import GroundTruth, ImageCategory
from ..errors import ConfigError

__all__ = ["BACKENDS", "Curves", "Matches", "Matching", "choose_backend"]

__getattr__ = moved_names(__name__, {"AREAS": "mrcnn_ext.coco.areas:AP_AREAS"})

BACKENDS = ("auto", "faster_coco_eval", "pycocotools")


@dataclass(frozen=True)
class Curves:
    """What both libraries compute; -1 where there is nothing to find.

    Attributes:
        precision: (T, R, K, A, M): IoU thresholds 0.5 … 0.95, recalls 0 … 1, categories, areas,
            numbers of detections.
        recall: (T, K, A, M).
        areas: names of the areas.
        max_dets: numbers of detections per image and category, ascending.
    """

    precision: np.ndarray
    recall: np.ndarray
    areas: tuple[str, ...]
    max_dets: tuple[int, ...]

    def ap(
        self,
        iou: float | None = None,
        area: str = "all",
        category: int | Sequence[int] | None = None,
    ) -> float:
        """Average precision in 0 … 1; NaN where there is no object.

        Args:
            iou: threshold; None takes the mean over all of them.
            area: of ``areas``.
            category: index, or indices, of those that count; None takes all.
        """
        return _mean(self._chosen(self.precision, iou, area, category))

    def ar(
        self,
        iou: float | None = None,
        area: str = "all",
        category: int | Sequence[int] | None = None,
        limit: int = -1,
    ) -> float:
        """Average recall, as :meth:`ap`; ``limit`` is an index of ``max_dets``."""
        return _mean(self._chosen(self.recall, iou, area, category, limit))

    def curve(
        self, iou: float | None = None, category: int | Sequence[int] | None = None
    ) -> np.ndarray:
        """(R,) precision at recall 0 … 1, the mean over categories that have objects."""
        values = self._chosen(self.precision, iou, "all", category)  # (T, R, K)
        kept = values[:, :, (values > -1).all(axis=(0, 1))]
        return kept.mean(axis=(0, 2)) if kept.size else np.full(values.shape[1], np.nan)

    def _chosen(self, values, iou, area, category, limit=-1) -> np.ndarray:
        values = values[..., self.areas.index(area), limit]
        if iou is not None:
            first = round((iou - 0.5) / 0.05)
            values = values[first : first + 1]
        return values if category is None else values[..., np.atleast_1d(category).astype(int)]


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(np.mean(values)) if values.size else float("nan")


@dataclass(frozen=True)
class Matches:
    """Which detection found which object, whatever their size.

    Attributes:
        object_id: (D,) int64, of detection ``id - 1`` the id of its object; 0: none.
        ignored: (D,) bool: it is neither right nor wrong, for it lies in a crowd of its category.
        detection_id: (G,) int64, of object ``id - 1`` the id of its detection; 0: none.
    """

    object_id: np.ndarray
    ignored: np.ndarray
    detection_id: np.ndarray


def choose_backend(backend: str = "auto") -> str:
    """The library to use: faster-coco-eval where it is installed, unless one is named.

    Raises:
        ConfigError: there is no such backend, or it is not installed.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}.")
    installed = importlib.util.find_spec("faster_coco_eval") is not None
    if backend == "faster_coco_eval" and not installed:
        raise ConfigError("backend is 'faster_coco_eval': pip install faster-coco-eval.")
    if backend == "auto":
        return "faster_coco_eval" if installed else "pycocotools"
    return backend


class _Annotations:
    """The part of pycocotools' COCO class that both libraries call."""

    def __init__(self, annotations: list[dict], images: int, categories: int) -> None:
        self.annotations = annotations
        self.images = list(range(1, images + 1))
        self.categories = list(range(1, categories + 1))
        self.cat_img_map = dict.fromkeys(self.categories)

    def getImgIds(self):
        return self.images

    def getCatIds(self):
        return self.categories

    def getAnnIds(self, imgIds=(), catIds=()):
        return range(len(self.annotations))

    def loadAnns(self, ids):
        return self.annotations


def _with_overlaps(base: type) -> type:
    """A COCOeval class that looks overlaps up instead of computing them."""

    class _Evaluation(base):
        overlaps: Callable[[ImageCategory], np.ndarray]
        rows: dict[ImageCategory, np.ndarray]

        def computeIoU(self, imgId, catId):
            pair = (imgId, catId)
            rows = self.rows.get(pair)
            if rows is None:
                return []
            return self.overlaps(pair)[rows[: self.params.maxDets[-1]]]

        computeOks = computeIoU

    return _Evaluation


@dataclass(frozen=True)
class Matching:
    """Detections and objects to be matched as COCO does: best score first.

    Attributes:
        ground_truth: that all of it belongs to.
        objects: its entries, or some of them, with "num_keypoints" if ``keypoints``.
        detections: dicts with "id", "image_id", "category_id", "row", "score" and "area", in the order
            that decides between equal scores.
        overlaps: gives an array for a pair that has both objects and detections, whose rows and
            columns the entries' "row" points to. The objects of a pair are all there, in order.
        max_dets: numbers of detections of a category in an image, ascending; the last is the limit.
        keypoints: COCO's rules for keypoints: objects without any are ignored, no small objects.
    """

    ground_truth: GroundTruth
    objects: list[dict]
    detections: list[dict]
    overlaps: Callable[[ImageCategory], np.ndarray]
    max_dets: tuple[int, ...]
    keypoints: bool = False

    def curves(self, backend: str = "auto") -> Curves:
        """Precision and recall, by "faster_coco_eval" or "pycocotools", see :func:`choose_backend`."""
        if choose_backend(backend) == "faster_coco_eval":
            from faster_coco_eval import COCOeval_faster as base
        else:
            base = COCOeval
        areas = tuple(name for name in AREA_NAMES if not (self.keypoints and name == "small"))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._evaluated(base, areas)
            evaluation.accumulate()
        return Curves(
            precision=np.asarray(evaluation.eval["precision"]),
            recall=np.asarray(evaluation.eval["recall"]),
            areas=areas,
            max_dets=self.max_dets,
        )

    def matches(self, iou: float = 0.5) -> Matches:
        """Which detection found which object at an IoU threshold, by pycocotools."""
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._evaluated(COCOeval, ("all",), np.array([iou]))
        most = max((entry["id"] for entry in self.detections), default=0)
        object_id = np.zeros(most, dtype=np.int64)
        ignored = np.zeros(most, dtype=bool)
        detection_id = np.zeros(len(self.ground_truth.objects), dtype=np.int64)
        for entry in evaluation.evalImgs:
            if entry is None or not len(entry["dtIds"]):
                continue
            rows = np.asarray(entry["dtIds"], dtype=np.int64) - 1
            skipped = np.asarray(entry["dtIgnore"][0], dtype=bool)
            matched = np.where(skipped, 0, np.asarray(entry["dtMatches"][0], dtype=np.int64))
            object_id[rows], ignored[rows] = matched, skipped
            found = rows[matched > 0]
            detection_id[object_id[found] - 1] = found + 1
        return Matches(object_id, ignored, detection_id)

    def _evaluated(self, base: type, areas: tuple[str, ...], thresholds=None):
        numbers = len(self.ground_truth.image_ids), len(self.ground_truth.category_ids)
        # Both libraries write into what they are given, and one of them converts all of it.
        truth = _Annotations([{**o, "annotation": None} for o in self.objects], *numbers)
        found = _Annotations([{**d, "record": None} for d in self.detections], *numbers)
        evaluation = _with_overlaps(base)(truth, found, "keypoints" if self.keypoints else "bbox")
        evaluation.overlaps = self.overlaps
        pairs = {(o["image_id"], o["category_id"]) for o in self.objects}
        evaluation.rows = _rows_by_score(pairs, self.detections)
        parameters = evaluation.params
        parameters.imgIds, parameters.catIds = truth.images, truth.categories
        parameters.maxDets = list(self.max_dets)
        parameters.areaRng = [list(AP_AREAS[name]) for name in areas]
        parameters.areaRngLbl = list(areas)
        if thresholds is not None:
            parameters.iouThrs = thresholds
        evaluation.evaluate()
        return evaluation


def _rows_by_score(
    pairs: set[ImageCategory], detections: list[dict]
) -> dict[ImageCategory, np.ndarray]:
    """Rows of each pair's overlaps in the order in which the libraries will take the detections."""
    by_pair: dict[ImageCategory, list[dict]] = {}
    for entry in detections:
        pair = (entry["image_id"], entry["category_id"])
        if pair in pairs:
            by_pair.setdefault(pair, []).append(entry)
    rows = {}
    for pair, entries in by_pair.items():
        order = np.argsort([-entry["score"] for entry in entries], kind="stable")
        rows[pair] = np.array([entry["row"] for entry in entries])[order]
    return rows
