# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Polygons cut off at the edges of a picture."""

from __future__ import annotations

import numpy as np

__all__ = ["clip_polygon", "polygon_area"]


def clip_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """What of a polygon lies in a picture (Sutherland and Hodgman 1974).

    A polygon that leaves the picture and comes back stays one, whose parts are connected along the
    edge: this adds no area. (Detectron2's crop needs ``shapely`` for the same.)

    Args:
        points: float (N, 2), x and y; x = width is the right edge.

    Returns:
        float (M, 2), the same array if nothing lies outside; M = 0 if nothing lies inside.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    if (low >= 0).all() and high[0] <= width and high[1] <= height:
        return points
    for axis, sign, limit in ((0, 1, 0.0), (0, -1, -width), (1, 1, 0.0), (1, -1, -height)):
        if len(points) == 0:
            break
        points = _clip_side(points, sign * points[:, axis] - limit)
    if len(points) < 3 or polygon_area(points) <= 0:
        return points[:0]
    return points.clip(0, (width, height))  # what rounding left


def _clip_side(points: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Keep the part on which a linear function of the points, given at each, is 0 or more."""
    following, inside_next = np.roll(points, -1, axis=0), np.roll(inside, -1)
    crosses = (inside >= 0) != (inside_next >= 0)
    share = np.divide(inside, inside - inside_next, out=np.zeros_like(inside), where=crosses)
    crossings = points + share[:, None] * (following - points)
    both = np.stack([points, crossings], axis=1)
    return both[np.stack([inside >= 0, crosses], axis=1)]


def polygon_area(points: np.ndarray) -> float:
    """Area of a polygon, float (N, 2), without regard to its direction."""
    x, y = points[:, 0], points[:, 1]
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
