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

# As in csrc/cpu/heatmap_peaks.cpp: pixels are counted in float32, and those around a peak are computed.
_MAX_SIDE = 2**24 - 1
_MAX_AREA = 2**30


@torch.no_grad()
def bicubic_peaks(maps: Tensor, widths: Tensor, heights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the highest pixel of each map after bicubic resizing to a size of its own.

    It is the pixel that ``torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`` and
    ``argmax`` find, unless the two highest differ by no more than float32's rounding.

    Args:
        maps: (R, K, H, W) float32, on any device. A NaN anywhere in a map makes its value NaN.
        widths, heights: (R,) int64, from 1 to below 2^24: the size of a region's K maps after resizing,
            in pixels, of which there are 2^30 at most.

    Returns:
        x and y of the pixel, (R, K) int64 each, and its value, (R, K) float32.

    Raises:
        ValueError: shapes, types or devices that do not fit.
        RuntimeError: a size out of range.
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
        if pixels.device != maps.device:
            raise ValueError(f"{name} is on {pixels.device}, but maps is on {maps.device}.")
    if max(maps.shape[2:]) > _MAX_SIDE:
        raise ValueError(f"maps must have sides below 2^24, not {tuple(maps.shape)}.")
    pixel = torch.zeros((*maps.shape[:2], 2), dtype=torch.int64, device=maps.device)
    value = maps.new_zeros(maps.shape[:2])
    if maps.numel():
        sizes = torch.stack([widths, heights], dim=1)
        _check_sizes(sizes)
        find = ops.BICUBIC_PEAKS.on(maps.device)
        find(maps.contiguous(), sizes, pixel, value)
    return pixel[..., 0], pixel[..., 1], value


def _check_sizes(sizes: Tensor) -> None:
    pixels = sizes.cpu().numpy()
    if pixels.min() >= 1 and pixels.max() <= _MAX_AREA**0.5:
        return
    within = ((pixels >= 1) & (pixels <= _MAX_SIDE)).all(axis=1)
    within &= pixels.clip(0, _MAX_SIDE).prod(axis=1) <= _MAX_AREA
    if not within.all():
        region = int((~within).argmax())
        width, height = pixels[region].tolist()
        raise RuntimeError(
            "sizes must be from 1 to below 2^24 with at most 2^30 pixels, but region "
            f"{region} has {width} x {height}"
        )
