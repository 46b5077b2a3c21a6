# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find the highest pixel of maps resized to their boxes, without resizing them.

Detectron2 decodes a heatmap by resizing it bicubically to ceil(w) x ceil(h) pixels and taking the
highest one, box by box. Here only the pixels that can be the highest are computed, and the result is
the same pixel. ``csrc/cpu/heatmap_peaks.cpp`` explains the bound that makes this exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops

__all__ = ["bicubic_peaks"]


@torch.no_grad()
def bicubic_peaks(maps: Tensor, widths: Tensor, heights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the highest pixel of each map after bicubic resizing to a size of its own.

    It is the pixel that ``torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`` and
    ``argmax`` find, unless the two highest differ by no more than float32's rounding.

    Args:
        maps: (R, K, H, W) float32, on any device. A NaN anywhere in a map makes its value NaN.
        widths, heights: (R,) int64, 1 or more: the size of a region's K maps after resizing, in pixels.

    Returns:
        x and y of the pixel, (R, K) int64 each, and its value, (R, K) float32.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    if maps.dim() != 4 or maps.dtype != torch.float32:
        raise ValueError(
            f"maps must be (R, K, H, W) float32, not {maps.dtype} {tuple(maps.shape)}."
        )
    for name, pixels in (("widths", widths), ("heights", heights)):
        if pixels.shape != maps.shape[:1] or pixels.dtype != torch.int64:
            raise ValueError(
                f"{name} must be ({maps.shape[0]},) int64, one for each region, not "
                f"{pixels.dtype} {tuple(pixels.shape)}."
            )
    pixel = torch.zeros((*maps.shape[:2], 2), dtype=torch.int64, device=maps.device)
    value = maps.new_zeros(maps.shape[:2])
    if maps.numel():
        find = ops.BICUBIC_PEAKS.on(maps.device)
        find(maps.contiguous(), torch.stack([widths, heights], dim=1), pixel, value)
    return pixel[..., 0], pixel[..., 1], value
