# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Boundary IoU (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", CVPR 2021, https://arxiv.org/abs/2103.16562) on crops."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as mask_util

from ..coco.rle import mask_crop
from ..errors import DataError

__all__ = [
    "Boundary",
    "boundary_iou",
    "boundary_of_rle",
    "dilation_pixels",
    "mask_and_boundary_iou",
]

_SQUARE = np.ones((3, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Boundary:
    """The pixels of a mask that are near its outline, inside of it.

    Attributes:
        x0, y0: where the crop lies in the image.
        pixels: (width, height) uint8 of zeros and ones.
        area: number of ones.
    """

    x0: int
    y0: int
    pixels: np.ndarray
    area: int


def dilation_pixels(height: int, width: int, ratio: float = 0.02) -> int:
    """Width of the boundary: ``ratio`` of the image's diagonal, rounded, at least one pixel."""
    return max(1, round(ratio * float(np.sqrt(height**2 + width**2))))


def boundary_of_rle(rle: dict, dilation: int) -> Boundary:
    """Mask minus its erosion: ``dilation`` times by a 3 x 3 square, zeros all around the image.

    Outside its crop the mask is zero, too, so that the crop erodes as the whole image does.

    Args:
        rle: COCO RLE of the mask.
        dilation: number of erosions, from :func:`dilation_pixels`.

    Raises:
        ValueError: the RLE is damaged.
    """
    try:
        x0, y0, mask = mask_crop(rle)
    except ValueError as error:
        raise DataError(f"a mask has no boundary: {error}.") from error
    if mask.size and min(mask.shape) > 2 * dilation:  # else no pixel is far enough from the zeros
        inner = cv2.erode(
            mask, _SQUARE, iterations=dilation, borderType=cv2.BORDER_CONSTANT, borderValue=0
        )
        mask = np.bitwise_xor(mask, inner, out=inner)  # in place: new memory is what takes time
    return Boundary(x0, y0, mask, int(np.count_nonzero(mask)))


def boundary_iou(first: Boundary, second: Boundary) -> float:
    """Intersection over union of two boundaries in the same image; 0 if both are empty."""
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    x1 = min(first.x0 + first.pixels.shape[0], second.x0 + second.pixels.shape[0])
    y1 = min(first.y0 + first.pixels.shape[1], second.y0 + second.pixels.shape[1])
    common = 0
    if x1 > x0 and y1 > y0:
        common = int(np.count_nonzero(_cut(first, x0, y0, x1, y1) & _cut(second, x0, y0, x1, y1)))
    union = first.area + second.area - common
    return common / union if union else 0.0


def mask_and_boundary_iou(first: dict, second: dict, ratio: float = 0.02) -> tuple[float, float]:
    """IoU of two masks and of their boundaries; 0 where both are empty.

    Args:
        first, second: COCO's RLE, of the same size.
        ratio: see :func:`dilation_pixels`.

    Raises:
        ValueError: an RLE is damaged.
    """
    height, width = first["size"]
    dilation = dilation_pixels(height, width, ratio)
    boundaries = (boundary_of_rle(rle, dilation) for rle in (first, second))
    return float(mask_util.iou([first], [second], [0])[0, 0]), boundary_iou(*boundaries)


def _cut(boundary: Boundary, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    left, top = boundary.x0, boundary.y0
    return boundary.pixels[x0 - left : x1 - left, y0 - top : y1 - top]
