# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Rasterise polygons that reach too far for pycocotools: ``csrc/cpu/polygon_raster.cpp`` in Python.

pycocotools walks edges in steps of a fifth of a cell, keeps every step, and counts fifths in 32 bits.
Here the step at which an edge passes the middle of a column is worked out, as in the compiled op.
"""

from __future__ import annotations

import numpy as np

__all__ = ["draw", "is_far"]

# What pycocotools walks in a few milliseconds, in cells.
_MAX_COORDINATE = 2.0**20
_MAX_OUTLINE = 2.0**20

_LIMIT = 2.0**40  # coordinates beyond it, in fifths, are moved there
_BEFORE_MIDDLE = 2  # the middle of cell i is between its fifths 5 i + 2 and 5 i + 3
_SHORT = 2**20  # edges of fewer fifths never skip one by rounding

Vertex = tuple[int, int, int]  # x and y in fifths, and the first column whose middle is right of x


def is_far(cells: np.ndarray) -> bool:
    """Whether a polygon, (n, 2) in cells of the grid, takes pycocotools too far or too long."""
    outline = np.abs(cells - np.roll(cells, 1, axis=0)).max(axis=1).sum()
    return not (np.abs(cells).max() <= _MAX_COORDINATE and outline <= _MAX_OUTLINE)


def draw(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) uint8 mask of one polygon, (n, 2) float64 in cells of the grid."""
    fifths = 5.0 * cells + 0.5
    fifths = np.where(fifths > -_LIMIT, np.minimum(fifths, _LIMIT), -_LIMIT).astype(np.int64)
    columns = np.minimum(_first_cell_beyond(fifths[:, 0]), width)
    vertices = [(x, y, column) for (x, y), column in zip(fifths.tolist(), columns.tolist())]
    flips = np.zeros((height + 1, width), dtype=np.uint8)
    for start, end in zip(vertices, vertices[1:] + vertices[:1]):
        if start[2] == end[2]:
            continue
        flat = abs(end[0] - start[0]) >= abs(end[1] - start[1])
        for column, y in (_flat_passages if flat else _steep_passages)(start, end):
            flips[min(_first_cell_beyond(y), height), column] ^= 1
    inside = np.bitwise_xor.accumulate(flips, axis=0)
    # The COCO API counts through all columns: after an odd number of flips, the next starts inside.
    odd = np.bitwise_xor.accumulate(inside[-1])
    inside[:, 1:] ^= odd[:-1]
    return inside[:-1]


def _first_cell_beyond(fifth):
    """The first cell whose middle is beyond a fifth."""
    return (np.maximum(fifth, _BEFORE_MIDDLE) + 4 - _BEFORE_MIDDLE) // 5


def _along(start: float, slope: float, step: float) -> float:
    """Where an edge is on its minor axis; to be truncated."""
    return start + slope * step + 0.5


def _flat_passages(start: Vertex, end: Vertex) -> list[tuple[int, int]]:
    """Column and y of each passage of an edge with no more rise than run."""
    left, right = (end, start) if start[0] > end[0] else (start, end)
    origin, slope = float(left[1]), float(right[1] - left[1]) / float(right[0] - left[0])
    # Of the two ends of the step that passes a middle, the lower one
    first = _BEFORE_MIDDLE - left[0] + (1 if slope < 0 else 0)
    return [
        (column, int(_along(origin, slope, float(5 * column + first))))
        for column in range(left[2], right[2])
    ]


def _steep_passages(start: Vertex, end: Vertex) -> list[tuple[int, int]]:
    """The same of an edge with more rise than run."""
    backwards = start[1] > end[1]
    low, high = (end, start) if backwards else (start, end)
    rightwards = high[0] > low[0]
    rise, run = high[1] - low[1], float(high[0] - low[0])
    origin, slope, inverse = float(low[0]), run / float(rise), float(rise) / run
    passages = []
    for column in range(min(low[2], high[2]), max(low[2], high[2])):
        after = float(5 * column + _BEFORE_MIDDLE + 1)

        def passed(steps: int, after: float = after) -> bool:
            return (_along(origin, slope, float(steps)) >= after) == rightwards

        step = min(max(int((after - 0.5 - origin) * inverse) + 1, 1), rise)
        while step > 1 and passed(step - 1):
            step -= 1
        while step < rise and not passed(step):
            step += 1
        if rise > _SHORT:
            # The COCO API sees a passage where its walk arrives next to the middle, and an edge of very
            # many fifths may skip that one by rounding.
            arrival = int(_along(origin, slope, float(step - 1 if backwards else step)))
            if arrival != 5 * column + _BEFORE_MIDDLE + (1 if end[0] > start[0] else 0):
                continue
        passages.append((column, low[1] + step - 1))
    return passages
