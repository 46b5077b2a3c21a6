# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The ops behind :mod:`mrcnn_ext.layers.mask_targets`.

Both write into a bool tensor (R, h, w) that the caller allocates; all tensors are contiguous.
Polygons are rasterised on the CPU; bitmasks are cropped on the device they are on.
"""

from __future__ import annotations

from ..kernels import Kernel
from . import fallback

__all__ = ["BITMASK_TARGETS", "POLYGON_MASK_TARGETS"]

POLYGON_MASK_TARGETS = Kernel(
    "_polygon_mask_targets(Tensor points, Tensor part_begin, Tensor instance_begin, "
    "Tensor instances, Tensor boxes, bool divide_in_double, Tensor(a!) output) -> ()",
    fallback.polygon_mask_targets,
)
BITMASK_TARGETS = Kernel(
    "_bitmask_targets(Tensor masks, Tensor instances, Tensor boxes, Tensor(a!) output) -> ()",
    fallback.bitmask_targets,
)
