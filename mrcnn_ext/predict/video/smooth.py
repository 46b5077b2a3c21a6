# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Steady keypoints in videos: the One Euro filter.

Casiez, Roussel and Vogel: 1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input in
Interactive Systems, CHI 2012. What rests is smoothed much, so that it does not tremble; what moves
fast is smoothed little, so that it does not lag behind.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np

__all__ = ["BETA", "MIN_CUTOFF", "KeypointSmoother", "OneEuroFilter"]

MIN_CUTOFF = 1.0  # Hz
BETA = 5.0  # Hz by (sides of the object a second)
_DERIVATIVE_CUTOFF = 1.0  # Hz, as in the paper
_MEMORY = 1.0  # seconds after which an object that was out of sight begins anew


class OneEuroFilter:
    """The filter of many numbers at once, each by itself; times need not be regular."""

    def __init__(
        self, min_cutoff: float, beta: float, derivative_cutoff: float = _DERIVATIVE_CUTOFF
    ) -> None:
        """
        Args:
            min_cutoff: frequency in Hz below which a value at rest may change.
            beta: by how much that rises with the speed.
            derivative_cutoff: of the speed, in Hz.
        """
        self._min_cutoff, self._beta, self._derivative = min_cutoff, beta, derivative_cutoff
        self.time: float | None = None
        self._value = self._speed = np.zeros(())

    def __call__(self, value: np.ndarray, time: float, scale: float = 1.0) -> np.ndarray:
        """
        Args:
            value: array of any shape, the same in each call.
            time: in seconds, greater than the last one.
            scale: what speeds are divided by before they count.

        Returns:
            float64, of the same shape.
        """
        value = np.asarray(value, dtype=np.float64)
        if self.time is None:
            self._value, self._speed = value, np.zeros_like(value)
        else:
            period = time - self.time
            speed = (value - self._value) / period
            self._speed += _weight(self._derivative, period) * (speed - self._speed)
            cutoff = self._min_cutoff + self._beta * np.abs(self._speed) / scale
            self._value = self._value + _weight(cutoff, period) * (value - self._value)
        self.time = time
        return self._value


def _weight(cutoff, period: float):
    """Alpha of the paper: 1 / (1 + tau / Te), where tau = 1 / (2 pi cutoff)."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * period))


class KeypointSmoother:
    """A filter for each object of a video, by its id."""

    def __init__(self, min_cutoff: float = MIN_CUTOFF, beta: float = BETA) -> None:
        """
        Args:
            min_cutoff: as for :class:`OneEuroFilter`.
            beta: likewise; speeds are in sides of the object a second, so that it suits any size.
        """
        self._settings = min_cutoff, beta
        self._filters: dict[Hashable, OneEuroFilter] = {}

    def __call__(self, key: Hashable, points: np.ndarray, side: float, time: float) -> np.ndarray:
        """
        Args:
            key: of the object.
            points: (K, 2) in pixels.
            side: of the object: the square root of its box's area, in pixels.
            time: in seconds.

        Returns:
            float64 (K, 2).
        """
        if key not in self._filters:
            self._filters[key] = OneEuroFilter(*self._settings)
        return self._filters[key](points, time, max(side, 1.0))

    def forget(self, time: float) -> None:
        """Drop objects that have not been seen for a second."""
        old = [k for k, f in self._filters.items() if f.time is None or time - f.time > _MEMORY]
        for key in old:
            del self._filters[key]
