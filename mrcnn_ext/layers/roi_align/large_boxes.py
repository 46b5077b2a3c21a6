# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""RoIAlign of single boxes that torchvision's op cannot take: too far out, or of too many samples.

The average of a box's samples is separable: a weighted sum of rows, then of columns. So a box costs the
pixels that it reads (see ``csrc/roi_align_geometry.h``).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..sampling import bin_taps, make_axis

__all__ = ["is_large", "pool", "spread"]

# torchvision converts coordinates to int without a range check, and stores all samples of a box.
_MAX_COORDINATE = 32768.0
_MAX_SAMPLES = 2**20

Taps = list[tuple[Tensor, Tensor]]


def is_large(boxes: Tensor, scale: float, bins: tuple[int, int], sampling_ratio: int) -> Tensor:
    """(R,) bool: which of (R, 4) boxes torchvision's op cannot take, or only at a high cost."""
    corners = boxes.double() * scale
    sides = (corners[:, 2:] - corners[:, :2]).abs().clamp(min=1)
    cells = sides.new_tensor([bins[1], bins[0]])
    samples = cells * sampling_ratio if sampling_ratio else (sides / cells).ceil() * cells
    samples = samples.expand_as(sides).prod(dim=1)
    near = (corners.abs() <= _MAX_COORDINATE).all(dim=1)
    return ~(near & (samples <= _MAX_SAMPLES))


def pool(
    feature: Tensor, box: Tensor, scale: float, bins: tuple[int, int], ratio: int, aligned: bool
) -> Tensor:
    """(C, h, w) of one (4,) box on a (C, H, W) map; float32 or float64, both of one type."""
    taps_y, taps_x = _taps(feature, box, scale, bins, ratio, aligned)
    rows = torch.stack([_weighted(feature, 1, *taps) for taps in taps_y], dim=1)
    return torch.stack([_weighted(rows, 2, *taps) for taps in taps_x], dim=2)


def spread(
    grad: Tensor, box: Tensor, scale: float, map_grad: Tensor, ratio: int, aligned: bool
) -> None:
    """Add the gradient of :func:`pool`, given its (C, h, w) result's, to that of the map, (C, H, W)."""
    bins = (grad.shape[1], grad.shape[2])
    taps_y, taps_x = _taps(map_grad, box, scale, bins, ratio, aligned)
    rows = grad.new_zeros((*grad.shape[:2], map_grad.shape[2]))
    for cell, (pixels, weights) in enumerate(taps_x):
        rows[:, :, pixels] += grad[:, :, cell, None] * weights
    for cell, (pixels, weights) in enumerate(taps_y):
        map_grad[:, pixels] += rows[:, cell, None] * weights[:, None]


def _taps(
    feature: Tensor, box: Tensor, scale: float, bins: tuple[int, int], ratio: int, aligned: bool
) -> tuple[Taps, Taps]:
    """Pixels and weights of the cells' rows, and of their columns, on the device of the map."""
    x0, y0, x1, y1 = box.detach().cpu().numpy()
    both = []
    for low, high, cells, length in (
        (y0, y1, bins[0], feature.shape[1]),
        (x0, x1, bins[1], feature.shape[2]),
    ):
        taps = bin_taps(make_axis(low, high, scale, aligned, cells, ratio, length))
        both.append(
            [
                (
                    torch.from_numpy(pixels).to(feature.device),
                    torch.from_numpy(weights.astype(np.float64)).to(feature),
                )
                for pixels, weights in taps
            ]
        )
    return both[0], both[1]


def _weighted(values: Tensor, dim: int, pixels: Tensor, weights: Tensor) -> Tensor:
    """Sum over the pixels of a dimension. No others are read: a NaN there would not be 0 times NaN."""
    return torch.tensordot(values.index_select(dim, pixels), weights, dims=([dim], [0]))
