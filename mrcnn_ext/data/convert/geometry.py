# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Outlines of rectangles and ellipses, and of masks: exact ones, along the edges of pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np

__all__ = ["box_of", "ellipse", "keyhole", "mask_rings", "rectangle", "rotated"]

_FAULT = 0.05  # pixels that a polygon may be inside its ellipse
_FEWEST, _MOST = 12, 720  # points of an ellipse


def rectangle(x: float, y: float, width: float, height: float) -> list[float]:
    """The corners of a box as a flat polygon."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> list[float]:
    """A flat polygon with an ellipse's area, whose sides leave the ellipse by at most 0.05 pixels.

    Args:
        cx, cy: centre.
        rx, ry: radii, not negative.
        angle: by which it is turned, degrees clockwise as pictures show it.
    """
    radius = max(rx, ry)
    fault = min(_FAULT / radius, 1.0) if radius > 0 else 1.0
    number = min(max(_FEWEST, math.ceil(math.pi / math.acos(1 - fault))), _MOST)
    turn = np.arange(number) * (2 * math.pi / number)
    # Points a little outside, so that the polygon has the area of the ellipse.
    out = math.sqrt(2 * math.pi / number / math.sin(2 * math.pi / number))
    x, y = rx * out * np.cos(turn), ry * out * np.sin(turn)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.stack([cx + c * x - s * y, cy + s * x + c * y], axis=1).ravel().tolist()


def rotated(polygon: list[float], angle: float, x: float, y: float) -> list[float]:
    """Turn a flat polygon around (x, y), degrees clockwise as pictures show it."""
    if not angle:
        return polygon
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    dx, dy = (np.reshape(polygon, (-1, 2)) - (x, y)).T
    return np.stack([x + c * dx - s * dy, y + s * dx + c * dy], axis=1).ravel().tolist()


def box_of(polygons: list[list[float]]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 around flat polygons."""
    points = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons])
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def mask_rings(mask: np.ndarray) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """The outlines of a mask along the edges of its pixels: filling them gives the mask again.

    Args:
        mask: (H, W) bool or uint8, not 0 is inside.

    Returns:
        for each part its outer ring and the rings of its holes, each int64 (K, 2) x, y of corners.
    """
    if not mask.any():
        return []
    # OpenCV's contours run through the centres of pixels. Of each pixel four are made, so that the
    # contour keeps to that quarter which is at the outside, and halving its coordinates upwards gives
    # the corner. A border of one pixel keeps contours off OpenCV's edge.
    large = np.pad((mask != 0).astype(np.uint8), 1).repeat(2, axis=0).repeat(2, axis=1)
    contours, levels = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners((contour[:, 0].astype(np.int64) + 1) // 2 - 1) for contour in contours]
    parents = levels[0][:, 3]
    return [
        (ring, [rings[k] for k in np.flatnonzero(parents == i)])
        for i, ring in enumerate(rings)
        if parents[i] < 0
    ]


def _corners(points: np.ndarray) -> np.ndarray:
    """Without repeated points, and those on a straight line."""
    while True:
        points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
        before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
        a, b = points - before, after - points
        straight = a[:, 0] * b[:, 1] == a[:, 1] * b[:, 0]
        if not straight.any():
            return points
        points = points[~straight]


def keyhole(ring: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    """One closed ring with its holes, each joined to it by a bridge without width.

    For formats that know one polygon an object: filled by parity, the bridges cover nothing.

    Args:
        ring: (K, 2) x, y.
        holes: rings inside it.

    Returns:
        (K', 2) x, y.
    """
    # From left to right: the bridge of a hole must not cross one that comes later.
    for hole in sorted(holes, key=lambda h: h[:, 0].min()):
        start = int(hole[:, 0].argmin())
        way = ((ring - hole[start]) ** 2).sum(axis=1)
        place = int(way.argmin())
        around = np.roll(hole, -start, axis=0)
        bridge = [ring[: place + 1], around, around[:1], ring[place:]]
        ring = np.concatenate(bridge)
    return ring
