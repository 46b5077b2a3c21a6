# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Small, medium and large objects, by COCO's areas in pixels of the original image.

AP uses COCOeval's ranges, which are closed at both ends: an object of exactly 32² pixels counts in
both "small" and "medium". Tables of counts and means use half-open ranges, so that each object is in
exactly one of the three.
"""

from __future__ import annotations

import numpy as np

__all__ = ["AP_AREAS", "AREA_LETTERS", "AREA_NAMES", "COUNT_AREAS", "in_area"]

_SMALL, _LARGE, _LARGEST = 32**2, 96**2, 1e5**2

AREA_NAMES = ("all", "small", "medium", "large")
AREA_LETTERS = {"small": "s", "medium": "m", "large": "l"}  # APs, APm, APl

# Least and largest area, both included, as COCOeval has them.
AP_AREAS: dict[str, tuple[float, float]] = {
    "all": (0, _LARGEST),
    "small": (0, _SMALL),
    "medium": (_SMALL, _LARGE),
    "large": (_LARGE, _LARGEST),
}
# From the first number up to, but not including, the second.
COUNT_AREAS: dict[str, tuple[float, float]] = {
    "all": (0, np.inf),
    "small": (0, _SMALL),
    "medium": (_SMALL, _LARGE),
    "large": (_LARGE, np.inf),
}


def in_area(areas, name: str) -> np.ndarray:
    """Which areas are in a half-open range of ``COUNT_AREAS``.

    Args:
        areas: (N,) in pixels.
        name: of ``AREA_NAMES``.

    Returns:
        (N,) bool.
    """
    low, high = COUNT_AREAS[name]
    areas = np.asarray(areas, dtype=np.float64)
    return (areas >= low) & (areas < high)
