# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A model's output in COCO's result format; ``coco/results.py`` reads files of it."""

from __future__ import annotations

from detectron2.structures import BoxMode, Instances

from .._moved import moved_names
from ..coco.rle import text_rle
from ..skeletons import SkeletonSet
from ..structures import instance_rles
from .class_keypoints import cut_to_class

__all__ = ["instances_to_records"]

__getattr__ = moved_names(__name__, {"read_records": "mrcnn_ext.coco.results"})


def instances_to_records(
    instances: Instances, image_id, skeletons: SkeletonSet | None = None
) -> list[dict]:
    """A model's output for one image, without changing it.

    Args:
        instances: on the CPU, with "pred_boxes", "scores", "pred_classes", and optionally masks,
            "mask_scores" (n,) and "pred_keypoints" (n, K, 3).
        image_id: of the image.
        skeletons: of the model's classes; None: all classes have all K keypoints.

    Returns:
        One dict a detection: "image_id", "category_id" (the model's class), "bbox" (XYWH), "score",
        and "segmentation" (compressed RLE), "mask_score", "keypoints" (those of the class, three
        numbers each; as in COCO, whole numbers are centres of pixels) where there is such a thing.

    Raises:
        DataError: the keypoints are not those of the skeletons.
    """
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    records = [
        {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
        for label, box, score in zip(
            instances.pred_classes.tolist(), boxes.tolist(), instances.scores.tolist()
        )
    ]
    for record, rle in zip(records, instance_rles(instances) or ()):
        record["segmentation"] = text_rle(rle)
    if instances.has("mask_scores"):
        for record, score in zip(records, instances.mask_scores.tolist()):
            record["mask_score"] = score
    if instances.has("pred_keypoints"):
        keypoints = instances.pred_keypoints.clone()
        keypoints[:, :, :2] -= 0.5
        for record, points in zip(records, keypoints.tolist()):
            own = cut_to_class(points, record["category_id"], skeletons)
            if own is not None:
                record["keypoints"] = [number for point in own for number in point]
    return records
