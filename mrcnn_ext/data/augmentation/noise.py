# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Noisy pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

from .arguments import interval, number
from .photometric import rounded_as

__all__ = ["Noise"]


_OF_BYTES = (0.0, 15.0)


class Noise(T.Augmentation):
    """Add normal noise, independent for each pixel and channel."""

    def __init__(
        self, *, deviation: Sequence[float] | None = None, probability: float = 0.5
    ) -> None:
        """
        Args:
            deviation: least and greatest standard deviation, in values of pixels; None: 0 to 15, for
                pictures of 8 bits.
            probability: of adding any at all.

        Raises:
            ValueError: an argument has a value that cannot work.
        """
        super().__init__()
        self._for_bytes = deviation is None
        self.deviation = interval("deviation", _OF_BYTES if deviation is None else deviation, 0)
        self.probability = number("probability", probability, 0, 1)

    def pixel_problem(self, bands: int, pixel_type: str) -> str:
        """Why it cannot work on such pictures; "" if it can."""
        if pixel_type == "uint8" or not self._for_bytes:
            return ""
        return (
            f"adds noise of 0 to 15 by default, which is for 8 bits, but these have {pixel_type}; give "
            "deviation, in values of pixels"
        )

    def get_transform(self, image: np.ndarray) -> T.Transform:
        if self._rand_range() >= self.probability:
            return T.NoOpTransform()
        deviation = np.random.uniform(*self.deviation)
        # A generator of its own: several times as fast, and the transform can be applied again.
        seed = np.random.randint(2**31)

        def noisy(picture: np.ndarray) -> np.ndarray:
            noise = np.random.default_rng(seed).standard_normal(picture.shape, dtype=np.float32)
            return rounded_as(picture + np.float32(deviation) * noise, picture)

        return T.ColorTransform(noisy)
