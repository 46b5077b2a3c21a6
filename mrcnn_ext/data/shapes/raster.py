# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Outlines in continuous coordinates, and how much of each pixel they cover."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Outline", "coverage"]


@dataclass(frozen=True)
class Outline:
    """A shape: the union of parts, each a set of closed rings under the even-odd rule.

    Attributes:
        parts: per part its rings, each a float64 (K, 2) array of x, y; a second ring inside the
            first one is a hole.
        keypoints: None, or float64 (K, 2) x, y.
    """

    parts: tuple[tuple[np.ndarray, ...], ...]
    keypoints: np.ndarray | None = None

    @staticmethod
    def from_rings(*rings: np.ndarray) -> Outline:
        """One part."""
        return Outline((tuple(np.asarray(ring, dtype=np.float64) for ring in rings),))

    def bounds(self) -> tuple[float, float, float, float]:
        """Smallest x0, y0, x1, y1 around all parts."""
        points = np.concatenate([ring for part in self.parts for ring in part])
        return (*points.min(axis=0), *points.max(axis=0))

    def transformed(self, matrix: np.ndarray, offset: np.ndarray) -> Outline:
        """Every point p becomes ``matrix @ p + offset``."""
        parts = tuple(tuple(ring @ matrix.T + offset for ring in part) for part in self.parts)
        keypoints = None if self.keypoints is None else self.keypoints @ matrix.T + offset
        return Outline(parts, keypoints)

    def normalized(self) -> Outline:
        """Moved and scaled so that the bounds are centred at 0 and their longer side is 1."""
        x0, y0, x1, y1 = self.bounds()
        scale = 1.0 / max(x1 - x0, y1 - y0)
        center = np.array([x0 + x1, y0 + y1]) / 2
        return self.transformed(np.eye(2) * scale, -center * scale)


def coverage(outline: Outline, window: tuple[int, int, int, int], samples: int) -> np.ndarray:
    """Fraction of each pixel that the outline covers.

    Pixel (i, j) is the square from (j, i) to (j + 1, i + 1); it is tested at ``samples``² points.

    Args:
        outline: in pixels.
        window: x0, y0, x1, y1 of the pixels wanted (x1, y1 excluded); may leave the image.
        samples: points along each side of a pixel.

    Returns:
        float32 (y1 - y0, x1 - x0) in 0 … 1.
    """
    x0, y0, x1, y1 = window
    width, height = x1 - x0, y1 - y0
    inside = np.zeros((height * samples, width * samples), dtype=np.uint8)
    for part in outline.parts:
        # Sample k lies at coordinate k, so that comparisons below are with whole numbers.
        rings = [(ring - (x0, y0)) * samples - 0.5 for ring in part]
        inside |= _even_odd(rings, inside.shape)
    return cv2.resize(inside.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)


def _even_odd(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """1 for each whole-numbered point inside an odd number of rings (scan-line parity)."""
    rows, columns = shape
    a = np.concatenate(rings)
    b = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    # An edge meets the rows in [low, high): a vertex between two edges is counted once.
    first = np.ceil(np.minimum(a[:, 1], b[:, 1])).clip(0, rows).astype(np.int64)
    last = np.ceil(np.maximum(a[:, 1], b[:, 1])).clip(0, rows).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(a)), counts)
    row = first[edge] + np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    slope = (b[edge, 0] - a[edge, 0]) / (b[edge, 1] - a[edge, 1])
    crossing = a[edge, 0] + (row - a[edge, 1]) * slope
    column = np.ceil(crossing).clip(0, columns).astype(np.int64)
    counted = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1))
    toggles = counted.astype(np.uint8).reshape(rows, columns + 1)
    # uint8 wraps at 256, an even number: the parity is right all the same.
    return np.cumsum(toggles, axis=1, dtype=np.uint8)[:, :-1] & 1
