# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Masks as polygons with few points, which fill nearly the same pixels."""

from __future__ import annotations

import cv2
import numpy as np
from pycocotools import mask as mask_util

from ..coco.rle import mask_crop, to_rle
from ..data.convert.geometry import mask_rings

__all__ = ["LEAST_IOU", "mask_parts", "polygons_of"]

LEAST_IOU = 0.98  # of the mask and what its polygons fill
_FINEST = 0.2  # pixels; a smaller error than this leaves out no point that is not on a line


def mask_parts(rle: dict, error: float = 1.0) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """The parts of a mask, each with the holes in it.

    Args:
        rle: COCO RLE.
        error: how far a line may be from the edges of the mask's pixels. It is made smaller where the
            mask and what is filled would have an IoU below ``LEAST_IOU``; 0 keeps every corner, which
            gives the mask again, pixel for pixel.

    Returns:
        the largest part first: outer ring and rings of its holes, each float64 (K, 2): x, y in pixels
        of the image, the upper left corner of the first pixel at 0.
    """
    x0, y0, columns = mask_crop(rle)
    if not columns.size:
        return []
    mask = np.ascontiguousarray(columns.T)
    exact = mask_rings(mask)
    parts = exact
    while error >= _FINEST:
        thinned = _thinned(exact, error)
        if _iou(mask, thinned) >= LEAST_IOU:
            parts = thinned
            break
        error /= 2
    parts = sorted(parts, key=lambda part: -_extent(part[0]))
    return [(_moved(ring, x0, y0), [_moved(h, x0, y0) for h in holes]) for ring, holes in parts]


def polygons_of(rle: dict, error: float = 1.0) -> list[list[float]] | None:
    """A mask as COCO's list of flat polygons; None where they cannot say it: with holes, or empty.

    Args:
        rle, error: see :func:`mask_parts`.
    """
    parts = mask_parts(rle, error)
    if not parts or any(holes for _, holes in parts):
        return None
    return [ring.ravel().tolist() for ring, _ in parts]


def _thinned(parts: list, error: float) -> list:
    return [(_simpler(ring, error), [_simpler(h, error) for h in holes]) for ring, holes in parts]


def _simpler(ring: np.ndarray, error: float) -> np.ndarray:
    points = cv2.approxPolyDP(ring.astype(np.float32)[:, None], error, closed=True)[:, 0]
    return points.astype(np.float64) if len(points) >= 3 else ring


def _moved(ring: np.ndarray, x: int, y: int) -> np.ndarray:
    return ring.astype(np.float64) + (x, y)


def _extent(ring: np.ndarray) -> float:
    return abs(cv2.contourArea(ring.astype(np.float32)))


def _iou(mask: np.ndarray, parts: list) -> float:
    """IoU of a mask with what polygons fill, holes left out."""
    height, width = mask.shape
    filled = _filled([ring for ring, _ in parts], height, width)
    holes = [hole for _, found in parts for hole in found]
    if holes:
        filled &= ~_filled(holes, height, width)
    inside = mask != 0
    union = (filled | inside).sum()
    return float((filled & inside).sum() / union) if union else 1.0


def _filled(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    polygons = [ring.ravel().tolist() for ring in rings]
    return mask_util.decode(to_rle(polygons, height, width)) != 0
