# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The boundary of a mask and the IoU of two boundaries.

Cheng, Girshick, Dollár, Berg, Kirillov: Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation. CVPR 2021, https://arxiv.org/abs/2103.16562.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from pycocotools import mask as mask_util

__all__ = ["boundary_distance", "mask_and_boundary_iou", "mask_boundary"]

_DILATION = 0.02  # of the image's diagonal


def boundary_distance(height: int, width: int) -> int:
    """Width of the boundary in pixels for an image of this size."""
    return max(1, round(_DILATION * math.hypot(height, width)))


def mask_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Pixels of a mask that are within ``distance`` of its contour; the image's edge is contour.

    Args:
        mask: uint8 (H, W) of 0 and 1.
        distance: in pixels, 1 or more.

    Returns:
        uint8 (H, W) of 0 and 1.
    """
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return mask - inner[1:-1, 1:-1]


def mask_and_boundary_iou(first: dict, second: dict) -> tuple[float, float]:
    """IoU of two masks and of their boundaries.

    Args:
        first, second: COCO's RLE, of the same size.
    """
    height, width = first["size"]
    x0, y0, x1, y1 = _joint_box(first, second)
    a, b = (np.ascontiguousarray(mask_util.decode(m)[y0:y1, x0:x1]) for m in (first, second))
    if not a.size:
        return 0.0, 0.0
    distance = boundary_distance(height, width)
    return _iou(a, b), _iou(mask_boundary(a, distance), mask_boundary(b, distance))


def _joint_box(first: dict, second: dict) -> tuple[int, int, int, int]:
    """Around both masks: beyond it there is nothing, so the boundary there is the same."""
    boxes = mask_util.toBbox([first, second])
    boxes = boxes[boxes[:, 2] > 0]
    if not len(boxes):
        return 0, 0, 0, 0
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0
