# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""3 x 3 convolutions with a quarter of the multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4 x 4, 3 x 3): 4 x 4
pixels of the result come from 6 x 6 of the input. Both are transformed with small fixed matrices, and
between them are 36 products of matrices over the channels, where the direct sum has 144. On GPUs cuDNN
does this; on a CPU torch takes the direct sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["convolve", "is_worthwhile", "transform_weight"]

# Of the paper's eq. 18 ff.; interpolation at 0, 1, -1, 2, -2 and infinity.
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUT, _IN = 4, 6  # sides of a tile of the result and of the input
# Tiles at a time: so many that the products of matrices are fast, so few that a cache holds them.
_TILES = 128
_MIN_CHANNELS = 128  # with fewer, the transforms cost more than the products save


def transform_weight(weight: Tensor) -> Tensor:
    """(36, C, O) transformed weights of a (O, C, 3, 3) convolution, rounded once."""
    g = torch.tensor(_G, dtype=torch.float64, device=weight.device)
    transformed = torch.einsum("ai,ocij,bj->abco", g, weight.double(), g)
    return transformed.flatten(0, 1).to(weight.dtype).contiguous()


def is_worthwhile(channels: int, out_channels: int, shape: Sequence[int] | None = None) -> bool:
    """Whether :func:`convolve` is faster than the direct sum.

    Args:
        channels, out_channels: of the convolution.
        shape: (N, C, H, W) of the input, if known: tiles at the border compute pixels in vain, and few
            tiles make small matrices.
    """
    if min(channels, out_channels) < _MIN_CHANNELS:
        return False
    if shape is None:
        return True
    number, _, height, width = shape
    tiles = number * -(-height // _OUT) * -(-width // _OUT)
    return tiles >= _TILES // 2 and tiles * _OUT**2 <= 1.5 * number * height * width


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """A 3 x 3 convolution of stride 1 that keeps the size.

    Rounding errors are about four times those of the direct sum: 5e-6 of the largest value with 256
    channels.

    Args:
        x: (N, C, H, W) float32 or float64, fastest if it is stored channels_last.
        weight: (36, C, O), from :func:`transform_weight`.
        bias: (O,) or None.
        relu: clamp the result at 0.

    Returns:
        (N, O, H, W), stored channels_last.
    """
    number, _, height, width = x.shape
    out_channels = weight.shape[2]
    high, wide = -(-height // _OUT), -(-width // _OUT)  # tiles of an image
    rows = min(high, max(1, round(_TILES / wide)))  # of tiles, at a time
    images = min(number, max(1, _TILES // (high * wide))) if rows == high else 1
    buffers = _Buffers(x, images, rows, wide, out_channels)
    result = x.new_empty((number, height, width, out_channels))
    source = x.permute(0, 2, 3, 1)
    for first in range(0, number, images):
        count = min(images, number - first)
        for row in range(0, high, rows):
            top = _OUT * row - 1
            begin, end = max(top, 0), min(top + _OUT * rows + 2, height)
            padded = buffers.padded
            # The columns at both sides are 0 all the time.
            padded[:, : begin - top] = 0
            padded[:, end - top :] = 0
            padded[:count, begin - top : end - top, 1 : width + 1] = source[
                first : first + count, begin:end
            ]
            tiles = buffers.run(weight)
            if bias is not None:
                tiles.add_(bias)
            if relu:
                tiles.relu_()
            bottom = min(_OUT * rows, height - _OUT * row)
            pixels = tiles.view(images, _OUT * rows, _OUT * wide, out_channels)
            result[first : first + count, _OUT * row : _OUT * row + bottom] = pixels[
                :count, :bottom, :width
            ]
    return result.permute(0, 3, 1, 2)


class _Buffers:
    """Memory for some tiles, used again and again.

    Attributes:
        padded: (images, 4 rows + 2, 4 wide + 2, C), the input of the tiles.
    """

    def __init__(self, like: Tensor, images: int, rows: int, wide: int, out: int) -> None:
        channels, new = like.shape[1], like.new_empty
        self.padded = like.new_zeros((images, _OUT * rows + 2, _OUT * wide + 2, channels))
        self.lines = new((_IN, images, rows, _OUT * wide + 2, channels))
        self.inputs = new((_IN, _IN, images, rows, wide, channels))
        self.products = new((_IN, _IN, images, rows, wide, out))
        self.columns = new((_OUT, _IN, images, rows, wide, out))
        self.tiles = new((images, rows, _OUT, wide, _OUT, out))
        self.scratch = [
            new((2, *self.lines.shape[1:])),
            new((2, _IN, *self.inputs.shape[2:])),
            new((4, _IN, *self.products.shape[2:])),
            new((4, _OUT, *self.products.shape[2:])),
        ]

    def run(self, weight: Tensor) -> Tensor:
        """(images, rows, 4, wide, 4, O): the result for what lies in ``padded``."""
        rows, wide = self.inputs.shape[3], self.inputs.shape[4]
        lines = [self.padded[:, i : i + _OUT * rows - 3 : _OUT] for i in range(_IN)]
        _transform_input(lines, self.lines.unbind(0), self.scratch[0])
        columns = [self.lines[:, :, :, i : i + _OUT * wide - 3 : _OUT] for i in range(_IN)]
        _transform_input(columns, self.inputs.unbind(1), self.scratch[1])
        flat = self.inputs.view(_IN * _IN, -1, weight.shape[1])
        torch.bmm(flat, weight, out=self.products.view(_IN * _IN, -1, weight.shape[2]))
        _transform_output(self.products.unbind(0), self.columns.unbind(0), self.scratch[2])
        placed = self.tiles.permute(4, 2, 0, 1, 3, 5)  # column, row of a tile; the rest
        _transform_output(self.columns.unbind(1), placed.unbind(0), self.scratch[3])
        return self.tiles


def _transform_input(d: Sequence[Tensor], out: Sequence[Tensor], scratch: Tensor) -> None:
    """The paper's B^T d, along one axis: six tensors of one shape become six others."""
    even, odd = scratch
    torch.sub(d[4], d[2], alpha=5, out=out[0])
    out[0].add_(d[0], alpha=4)
    torch.sub(d[5], d[3], alpha=5, out=out[5])
    out[5].add_(d[1], alpha=4)
    torch.sub(d[4], d[2], alpha=4, out=even)
    torch.sub(d[3], d[1], alpha=4, out=odd)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d[4], d[2], out=even)
    torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])


def _transform_output(m: Sequence[Tensor], out: Sequence[Tensor], scratch: Tensor) -> None:
    """The paper's A^T m, along one axis: six tensors become four."""
    sum_1, difference_1, sum_2, difference_2 = scratch
    torch.add(m[1], m[2], out=sum_1)
    torch.sub(m[1], m[2], out=difference_1)
    torch.add(m[3], m[4], out=sum_2)
    torch.sub(m[3], m[4], out=difference_2)
    torch.add(sum_1, sum_2, out=out[0])
    out[0].add_(m[0])
    torch.add(difference_1, difference_2, alpha=2, out=out[1])
    torch.add(sum_1, sum_2, alpha=4, out=out[2])
    torch.add(difference_1, difference_2, alpha=8, out=out[3])
    out[3].add_(m[5])
