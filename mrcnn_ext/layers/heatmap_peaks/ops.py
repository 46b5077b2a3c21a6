# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The op behind :func:`mrcnn_ext.layers.bicubic_peaks`.

maps are (R, K, H, W) float32, sizes (R, 2) int64 width and height, pixels (R, K, 2) int64 x and y,
values (R, K) float32; all contiguous. The caller allocates pixels and values.
"""

from __future__ import annotations

from ..kernels import Kernel
from . import fallback

__all__ = ["BICUBIC_PEAKS"]

BICUBIC_PEAKS = Kernel(
    "_bicubic_peaks(Tensor maps, Tensor sizes, Tensor(a!) pixels, Tensor(b!) values) -> ()",
    fallback.bicubic_peaks,
)
