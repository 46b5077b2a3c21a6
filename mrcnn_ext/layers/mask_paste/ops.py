# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The ops behind :mod:`mrcnn_ext.layers.mask_paste`, and when the compiled ones may run.

Results must equal those of Detectron2's paste bit for bit. That is ``grid_sample``, whose last bit
depends on how torch was compiled: its code for AVX2 and AVX-512 fuses multiplications and additions,
its code for older processors does not. So torch is tested once; the argument ``fused`` of the ops says
which of the two it is. If it is neither, the fallback runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels import Kernel, has_kernels
from . import fallback

__all__ = ["MASKS_TO_RLE", "PASTE_MASKS", "compiled_arithmetic", "exact"]

# Masks are (R, h, w) and boxes (R, 4), contiguous; images (R, height, width) bool, zero before.
PASTE_MASKS = Kernel(
    "_paste_masks(Tensor masks, Tensor boxes, float threshold, bool fused, Tensor(a!) images) -> ()",
    fallback.paste_masks,
)
# Returns the strings of all masks one after the other, uint8, and where each begins, (R + 1,) int64.
MASKS_TO_RLE = Kernel(
    "_masks_to_rle(Tensor masks, Tensor boxes, int height, int width, float threshold, bool fused) "
    "-> (Tensor, Tensor)",
    fallback.masks_to_rle,
)


def exact(kernel: Kernel, masks: Tensor, boxes: Tensor, threshold: float) -> Callable:
    """Choose the implementation whose bits are grid_sample's, and bind its argument ``fused``.

    Compiled ops take float32 tensors only, and no negative threshold, which asks for soft masks.
    """
    fused = compiled_arithmetic()
    compilable = masks.dtype == boxes.dtype == torch.float32 and threshold >= 0
    if fused is None or not compilable:
        return partial(kernel.fallback, fused=False)
    return partial(kernel.on(masks.device), fused=fused)


@cache
def compiled_arithmetic() -> bool | None:
    """The argument ``fused`` of the compiled ops; None if they are missing or would differ."""
    if not has_kernels("_C_cpu"):
        return None
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(28, 28, generator=generator)
    grid = torch.rand(1, 32, 64, 2, generator=generator) * 2.2 - 1.1
    expected = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
    for fused in (True, False):
        if torch.equal(_sample(mask, grid[0], fused), expected):
            return fused
    return None


def _sample(mask: Tensor, grid: Tensor, fused: bool) -> Tensor:
    """Compute grid_sample in the compiled ops' order of operations."""

    def multiply_add(a, b, c):
        if not fused:
            return a * b + c
        # Products of float32 are exact in float64. The sum is rounded twice, which matters once in
        # 2**29 cases, and for none of the fixed points used here.
        return (a.double() * b.double() + c.double()).float()

    half_sizes = torch.tensor([mask.shape[1] / 2, mask.shape[0] / 2])
    position = multiply_add(grid + 1, half_sizes, torch.tensor(-0.5))
    corner = position.floor()
    second = position - corner
    first = 1 - second
    (e, s), (w, n) = first.unbind(-1), second.unbind(-1)
    x, y = corner.long().unbind(-1)
    padding = 4  # zeros around the mask, for points outside
    values = F.pad(mask, [padding] * 4)
    x, y = x + padding, y + padding
    result = values[y, x] * (s * e)
    result = multiply_add(values[y, x + 1], s * w, result)
    result = multiply_add(values[y + 1, x], n * e, result)
    return multiply_add(values[y + 1, x + 1], n * w, result)
