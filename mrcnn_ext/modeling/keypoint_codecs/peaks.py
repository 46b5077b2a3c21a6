# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The maximum of a map to a fraction of a cell."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["argmax_2d", "peak_1d", "peak_2d"]

# Cells of the fit to each side of the highest one, and how far from that one the maximum may be put.
_RADIUS = 2
_FARTHEST = 1.0


def argmax_2d(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) x and y, int64, of the highest cell of (N, H, W) maps; of the first one where several are.

    Rows first: finding the position of a maximum costs a CPU much more than finding its value.
    """
    y = maps.amax(dim=2).argmax(dim=1)
    rows = maps[torch.arange(len(maps), device=maps.device), y]
    return rows.argmax(dim=1), y


def peak_2d(maps: Tensor) -> Tensor:
    """Sub-cell maximum: one Newton step on the parabola around the highest cell.

    The step of Zhang et al. ("Distribution-Aware Coordinate Representation for Human Pose Estimation",
    CVPR 2020, sec. 3.2) on logits, which are log probabilities up to a constant. In place of finite
    differences the derivatives are those of the least-squares parabola through 5 x 5 cells, which is as
    exact for a Gaussian (its logarithm is a parabola) and less moved by noise; their smoothing is not
    needed then. At a border the 5 x 5 cells are the outermost there are. Where the fit has no maximum,
    the result is the cell itself.

    Args:
        maps: (N, H, W) of at least 5 x 5 cells.

    Returns:
        (N, 2) x, y in cells, a cell's centre being whole.
    """
    number, height, width = maps.shape
    x, y = argmax_2d(maps)
    middle_x = x.clamp(_RADIUS, width - 1 - _RADIUS)
    middle_y = y.clamp(_RADIUS, height - 1 - _RADIUS)
    steps = torch.arange(-_RADIUS, _RADIUS + 1, device=maps.device)
    rows = (middle_y[:, None] + steps)[:, :, None]
    columns = (middle_x[:, None] + steps)[:, None, :]
    patch = maps.flatten(1).gather(1, (rows * width + columns).flatten(1))
    patch = patch.view(number, len(steps), len(steps))

    slope, curve, count = _fit_vectors(patch)
    gradient_x = (patch * slope).sum(dim=(1, 2)) / count
    gradient_y = (patch * slope[:, None]).sum(dim=(1, 2)) / count
    xx = (patch * curve).sum(dim=(1, 2)) / count
    yy = (patch * curve[:, None]).sum(dim=(1, 2)) / count
    xy = (patch * slope * slope[:, None]).sum(dim=(1, 2))
    determinant = xx * yy - xy * xy
    has_maximum = (xx < 0) & (yy < 0) & (determinant > 0)
    divisor = torch.where(has_maximum, determinant, 1.0)
    step_x = -(yy * gradient_x - xy * gradient_y) / divisor
    step_y = -(xx * gradient_y - xy * gradient_x) / divisor
    return torch.stack(
        [
            _accept(x, middle_x + step_x, has_maximum),
            _accept(y, middle_y + step_y, has_maximum),
        ],
        dim=1,
    )


def peak_1d(lines: Tensor) -> Tensor:
    """The same for (N, S) lines of at least 5 cells: (N,) positions in cells."""
    index = lines.argmax(dim=1)
    middle = index.clamp(_RADIUS, lines.shape[1] - 1 - _RADIUS)
    steps = torch.arange(-_RADIUS, _RADIUS + 1, device=lines.device)
    patch = lines.gather(1, middle[:, None] + steps)
    slope, curve, _ = _fit_vectors(patch)
    second = (patch * curve).sum(dim=1)
    has_maximum = second < 0
    step = -(patch * slope).sum(dim=1) / torch.where(has_maximum, second, 1.0)
    return _accept(index, middle + step, has_maximum)


def _fit_vectors(patch: Tensor) -> tuple[Tensor, Tensor, int]:
    """Vectors whose products with values give first and second derivative of their parabola."""
    steps = torch.arange(-_RADIUS, _RADIUS + 1, device=patch.device, dtype=patch.dtype)
    squares = steps.square()
    curve = squares - squares.mean()
    return steps / squares.sum(), 2 * curve / curve.square().sum(), len(steps)


def _accept(cell: Tensor, position: Tensor, has_maximum: Tensor) -> Tensor:
    cell = cell.to(position.dtype)
    position = torch.maximum(torch.minimum(position, cell + _FARTHEST), cell - _FARTHEST)
    return torch.where(has_maximum & position.isfinite(), position, cell)
