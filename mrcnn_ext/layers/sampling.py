# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Where RoIAlign samples along one axis: ``csrc/roi_align_geometry.h`` in NumPy.

The fallbacks use it for boxes on which torchvision's op fails: it converts coordinates to int without a
range check, and it stores every sample of a box, most of which are outside the map if the box is huge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Axis", "bin_taps", "make_axis", "sample_positions"]

_LIMIT = 2.0**23  # beyond this, float32 does not resolve pixels any more


@dataclass(frozen=True)
class Axis:
    """One axis of one box: ``bins`` cells of ``grid`` samples each over a row of ``length`` pixels.

    ``start`` and ``bin_size`` are NumPy scalars in pixels of the map; their type is that of all
    coordinates.
    """

    start: np.floating
    bin_size: np.floating
    grid: int
    bins: int
    length: int


def make_axis(
    low: np.floating,
    high: np.floating,
    scale: float,
    aligned: bool,
    bins: int,
    sampling_ratio: int,
    length: int,
) -> Axis:
    """The axis of a box from ``low`` to ``high``, NumPy scalars of one type, in pixels of the image."""
    number = type(low)
    offset = number(0.5 if aligned else 0)
    with np.errstate(all="ignore"):
        start, end = (_clamp(value * number(scale) - offset) for value in (low, high))
    size = end - start
    if not aligned:
        size = max(size, number(1))
    bin_size = size / number(bins)
    return Axis(start, bin_size, sampling_ratio or math.ceil(bin_size), bins, length)


def _clamp(value: np.floating) -> np.floating:
    if not value >= -_LIMIT:  # or not a number
        return type(value)(-_LIMIT)
    return min(value, type(value)(_LIMIT))


def sample_positions(axis: Axis, cell: int) -> np.ndarray:
    """Samples of a cell on the map, in their order; those up to one pixel outside are at its border."""
    number = type(axis.start)
    start = axis.start + number(cell) * axis.bin_size
    begin, end = _sample_range(axis, float(start))
    samples = np.arange(begin, end).astype(number)
    positions = start + (samples + number(0.5)) * axis.bin_size / number(max(axis.grid, 1))
    positions = positions[(positions >= -1) & (positions <= axis.length)]
    return np.maximum(positions, number(0))


def _sample_range(axis: Axis, start: float) -> tuple[int, int]:
    """First and last + 1 sample of a cell that can be on the map."""
    if axis.grid <= 16 or axis.bin_size == 0:
        return 0, max(axis.grid, 0)
    step = float(axis.bin_size) / axis.grid
    first, last = sorted((edge - start) / step - 0.5 for edge in (-1.0, float(axis.length)))
    # Rounding of the positions, in samples
    margin = 2.0 + 5e-7 * (abs(start) + abs(float(axis.bin_size))) / abs(step)
    begin = int(min(max(first - margin, 0), axis.grid))
    return begin, int(min(max(last + margin + 1, 0), axis.grid))


def bin_taps(axis: Axis) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each cell, the (k,) int64 pixels that it reads and their weights, none of which is 0."""
    taps = []
    for cell in range(axis.bins):
        positions = sample_positions(axis, cell).astype(np.float64)
        low = np.minimum(positions.astype(np.int64), axis.length - 1)
        inner = low < axis.length - 1
        second = np.where(inner, positions - low, 0)
        first = low.min(initial=axis.length)
        weights = np.bincount(low - first, 1 - second, minlength=1)
        weights = np.append(weights, 0)
        weights += np.bincount(low - first + inner, second, minlength=len(weights))[: len(weights)]
        used = weights.nonzero()[0]
        taps.append((first + used, weights[used] / max(axis.grid, 1)))
    return taps
