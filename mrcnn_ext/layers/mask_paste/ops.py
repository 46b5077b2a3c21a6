# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The ops behind :mod:`.mask_paste`, and whether they may be used.

Their results are to be those of Detectron2's paste, bit for bit, and that is ``grid_sample``, whose
last bit depends on how torch was compiled: the vectorised code for AVX2 and AVX-512 has fused
multiply-adds, the code for older processors has none. So torch is asked once which it is. Where it is
neither, the ops are left alone.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels import has_kernels

__all__ = ["compiled_arithmetic"]

_LIBRARY = torch.library.Library("mrcnn_ext", "FRAGMENT")
_LIBRARY.define(
    "_masks_to_rle(Tensor masks, Tensor boxes, int height, int width, float threshold, bool fused) "
    "-> (Tensor, Tensor)"
)
_LIBRARY.define(
    "_paste_masks(Tensor masks, Tensor boxes, float threshold, bool fused, Tensor(a!) images) -> ()"
)


@cache
def compiled_arithmetic() -> bool | None:
    """The argument ``fused`` of the compiled ops; None where they are not there or would differ."""
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
    """What grid_sample computes, in the order in which the compiled ops do."""

    def multiply_add(a, b, c):
        if not fused:
            return a * b + c
        # Products of float32 are exact in float64. The sum is rounded twice, which could matter once
        # in 2**29 cases, but not for the fixed points that are looked at here.
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
