# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What augmentations share that change values of pixels only."""

from __future__ import annotations

import numpy as np

__all__ = ["byte_picture", "rounded_as"]


def byte_picture(image: np.ndarray, what: str) -> np.ndarray:
    """The picture, contiguous, if it has 8 bits.

    Raises:
        ValueError: it has not; names the augmentation ``what``.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"{what} needs pictures of 8 bits, but this one is {image.dtype}")
    return np.ascontiguousarray(image)


def rounded_as(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Values in the type of ``image``: whole numbers are rounded and stay in their range."""
    if not np.issubdtype(image.dtype, np.integer):
        return values.astype(image.dtype)
    limits = np.iinfo(image.dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(image.dtype)
