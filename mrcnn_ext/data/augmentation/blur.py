# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Blurred pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T

from .arguments import interval, number

__all__ = ["Blur"]


class Blur(T.Augmentation):
    """Blur with a Gaussian of random width."""

    def __init__(self, *, sigma: Sequence[float] = (0.1, 2.0), probability: float = 0.5) -> None:
        """
        Args:
            sigma: least and greatest standard deviation in pixels.
            probability: of blurring at all.

        Raises:
            ValueError: an argument has a value that cannot work.
        """
        super().__init__()
        self.sigma = interval("sigma", sigma, 0.01, 100)
        self.probability = number("probability", probability, 0, 1)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        if self._rand_range() >= self.probability:
            return T.NoOpTransform()
        sigma = np.random.uniform(*self.sigma)

        def blurred(picture: np.ndarray) -> np.ndarray:
            out = cv2.GaussianBlur(np.ascontiguousarray(picture), (0, 0), sigma)
            return out.reshape(picture.shape)  # OpenCV drops a single channel

        return T.ColorTransform(blurred)
