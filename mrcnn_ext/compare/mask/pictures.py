# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A head's mask of an object, with its errors."""

from __future__ import annotations

import numpy as np

from ...visualization.compared import compared_masks
from ...visualization.primitives import View
from .objects import TrueObject

__all__ = ["draw_mask"]


def draw_mask(crop: np.ndarray, view: View, one: TrueObject, rle: dict | None) -> np.ndarray:
    """A mask over a crop of its image; None draws the truth. See :data:`~..kind.Painter`."""
    truth = view.mask(one.rle)
    return compared_masks(crop, truth if rle is None else view.mask(rle), truth)
