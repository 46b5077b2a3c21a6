# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions as supervision has them, for its trackers, zones and annotators."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances

from ..coco.rle import rle_box
from ..skeletons import SkeletonSet
from ..structures import instance_rles

if TYPE_CHECKING:
    import supervision

__all__ = ["SupervisionResults", "to_supervision"]


class SupervisionResults(NamedTuple):
    """One image's objects; ``key_points`` is None where the model has none. Their order is the same."""

    detections: supervision.Detections
    key_points: supervision.KeyPoints | None


def to_supervision(instances: Instances, metadata=None) -> SupervisionResults:
    """A model's output for one image, for supervision 0.28 or later.

    Masks are a ``CompactMask``: run lengths of each object's own part of the image, made without a
    dense mask. supervision's ``Detections.from_detectron2`` makes them dense and drops keypoints.

    Args:
        instances: after post-processing, on any device, with "pred_boxes", "scores", "pred_classes",
            and optionally "pred_masks", "mask_scores" (n,), "pred_keypoints" (n, K, 3).
        metadata: of the data set: names of classes, and which keypoints a class has.

    Returns:
        detections: ``data`` has "class_name" if names are known, and "mask_score".
        key_points: xy (n, K, 2) in pixels, the centre of the first pixel at 0.5; ``visible`` is False
            for those of other classes' skeletons.

    Raises:
        ImportError: supervision is not installed.
    """
    try:
        import supervision as sv
    except ImportError as error:
        raise ImportError("supervision is missing: pip install mrcnn_ext[supervision].") from error
    rles = instance_rles(instances)
    instances = _without_masks(instances)
    classes = instances.pred_classes.numpy().astype(int)
    scores = instances.scores.numpy()
    data: dict[str, np.ndarray] = {}
    names = metadata.get("thing_classes") if metadata is not None else None
    if names:
        data["class_name"] = np.array([names[i] for i in classes], dtype=str)
    detections = sv.Detections(
        xyxy=instances.pred_boxes.tensor.numpy(),
        mask=None if rles is None else _compact(sv, rles, instances.image_size),
        confidence=scores,
        class_id=classes,
        data=dict(data),
    )
    if instances.has("mask_scores"):
        detections.data["mask_score"] = instances.mask_scores.numpy()
    if not instances.has("pred_keypoints"):
        return SupervisionResults(detections, None)
    points = instances.pred_keypoints
    points = getattr(points, "tensor", points).numpy()
    key_points = sv.KeyPoints(
        xy=points[:, :, :2],
        class_id=classes,
        keypoint_confidence=points[:, :, 2],
        detection_confidence=scores,
        visible=_of_class(points.shape[:2], classes, metadata),
        data=dict(data),
    )
    return SupervisionResults(detections, key_points)


def _without_masks(instances: Instances) -> Instances:
    """On the CPU; masks that were not pasted yet stay so."""
    fields = {k: v for k, v in instances._fields.items() if k != "pred_masks"}
    with torch.no_grad():
        return Instances(instances.image_size, **fields).to("cpu")


def _compact(sv, rles: list[dict], size: tuple[int, int]):
    # By the masks' own boxes: a mask may touch a pixel beyond the predicted one.
    boxes = np.array([rle_box(rle) for rle in rles], dtype=np.float64).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1], axis=1)
    return sv.CompactMask.from_coco_rle(rles, corners, size)


def _of_class(shape: tuple[int, int], classes: np.ndarray, metadata) -> np.ndarray:
    """bool (n, K): keypoints that the object's class has."""
    skeletons = SkeletonSet.from_metadata(metadata) if metadata is not None else None
    if skeletons is None or not skeletons.class_skeletons or skeletons.num_keypoints != shape[1]:
        return np.ones(shape, dtype=bool)
    return skeletons.class_keypoints().numpy()[classes]
