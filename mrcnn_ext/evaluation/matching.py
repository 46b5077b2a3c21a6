# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Matching of detections and precision over recall, by faster-coco-eval or by pycocotools.

Both are given the overlaps and do the rest. Everything that this package adds (boundaries, scores of
masks, LVIS's rules) is a matter of what they are given, so that one does as well as the other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval

from .._moved import moved_names
from ..coco.areas import AP_AREAS, AREA_NAMES
from ..coco.index import ImageCategory
from ..errors import ConfigError

__all__ = ["BACKENDS", "Curves", "choose_backend", "match"]

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


def match(
    objects: list[dict],
    detections: list[dict],
    overlaps: Callable[[ImageCategory], np.ndarray],
    *,
    num_images: int,
    num_categories: int,
    max_dets: tuple[int, ...],
    keypoints: bool = False,
    backend: str = "pycocotools",
) -> Curves:
    """Match detections to objects, best score first, as COCO does.

    Args:
        objects: dicts with "id", "image_id", "category_id" (all from 1), "area", "iscrowd", "row",
            and "num_keypoints" if ``keypoints``. Not changed.
        detections: likewise with "score" instead of "iscrowd", in the order that decides between
            equal scores. May be changed.
        overlaps: gives an array for a pair that has both objects and detections, whose rows and
            columns the entries' "row" points to. The objects of a pair are all there, in order.
        num_images, num_categories: how many there are.
        max_dets: numbers of detections of a category in an image, ascending; the last is the limit.
        keypoints: COCO's rules for keypoints: objects without any are ignored, no small objects.
        backend: "faster_coco_eval" or "pycocotools".
    """
    if backend == "faster_coco_eval":
        from faster_coco_eval import COCOeval_faster as base
    else:
        base = COCOeval
    # Both libraries write into what they are given.
    objects = [dict(entry, annotation=None) for entry in objects]
    truth = _Annotations(objects, num_images, num_categories)
    found = _Annotations(detections, num_images, num_categories)
    areas = tuple(name for name in AREA_NAMES if not (keypoints and name == "small"))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _with_overlaps(base)(truth, found, "keypoints" if keypoints else "bbox")
        evaluation.overlaps = overlaps
        evaluation.rows = _rows_by_score(
            {(o["image_id"], o["category_id"]) for o in objects}, detections
        )
        parameters = evaluation.params
        parameters.imgIds, parameters.catIds = truth.images, truth.categories
        parameters.maxDets = list(max_dets)
        parameters.areaRng = [list(AP_AREAS[name]) for name in areas]
        parameters.areaRngLbl = list(areas)
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(
        precision=np.asarray(evaluation.eval["precision"]),
        recall=np.asarray(evaluation.eval["recall"]),
        areas=areas,
        max_dets=tuple(max_dets),
    )


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
