# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Annotations of one picture as what a model learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.structures import BitMasks, Instances, PolygonMasks

__all__ = ["filter_empty", "to_instances"]


def to_instances(
    annotations: Sequence[dict],
    image_size: tuple[int, int],
    *,
    mask_format: str = "polygon",
    boxes_only: bool = False,
) -> Instances:
    """``gt_boxes``, ``gt_classes`` and, where there are any, ``gt_masks`` and ``gt_keypoints``.

    Args:
        annotations: in Detectron2's form; a mask may be an array (H, W).
        image_size: (height, width).
        mask_format: "polygon" or "bitmask".
        boxes_only: objects without a mask get an empty one. All have ``gt_masks`` then, and
            ``gt_has_mask`` (N,) bool says whose is to be learned from.
    """
    entries = list(annotations)
    if not boxes_only:
        return utils.annotations_to_instances(entries, image_size, mask_format=mask_format)
    has_mask = [bool(len(each.get("segmentation", ()))) for each in entries]
    empty: object = [] if mask_format == "polygon" else np.zeros(image_size, dtype=np.uint8)
    filled = [
        each if there else {**each, "segmentation": empty} for each, there in zip(entries, has_mask)
    ]
    instances = utils.annotations_to_instances(filled, image_size, mask_format=mask_format)
    if not entries:  # nothing that Detectron2 could tell masks from
        polygons = mask_format == "polygon"
        instances.gt_masks = (
            PolygonMasks([])
            if polygons
            else BitMasks(torch.zeros((0, *image_size), dtype=torch.bool))
        )
    instances.gt_has_mask = torch.tensor(has_mask, dtype=torch.bool)
    return instances


def filter_empty(instances: Instances) -> Instances:
    """Without empty boxes, and without empty masks where there should be one."""
    if not instances.has("gt_has_mask"):
        return utils.filter_empty_instances(instances)
    keep = instances.gt_boxes.nonempty(threshold=1e-5)
    keep &= instances.gt_masks.nonempty() | ~instances.gt_has_mask
    return instances[keep]
