# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Annotations of one picture as what a model learns from."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import detection_utils as utils
from detectron2.structures import Instances

__all__ = ["to_instances"]


def to_instances(
    annotations: Sequence[dict], image_size: tuple[int, int], *, mask_format: str = "polygon"
) -> Instances:
    """``gt_boxes``, ``gt_classes`` and, where there are any, ``gt_masks`` and ``gt_keypoints``.

    Args:
        annotations: in Detectron2's form; a mask may be an array (H, W).
        image_size: (height, width).
        mask_format: "polygon" or "bitmask".
    """
    return utils.annotations_to_instances(list(annotations), image_size, mask_format=mask_format)
