# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Layers of mask heads, initialised as in Detectron2's own head."""

from __future__ import annotations

import math

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d, ConvTranspose2d, get_norm
from torch import nn
from torch.nn import functional as F

__all__ = ["conv", "conv_stack", "mask_predictor", "upsampling"]


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    norm: str = "",
    activation=F.relu,
) -> Conv2d:
    """A convolution that keeps the size (up to ``stride``), normalisation if any, activation if any.

    ``norm`` is as for ``detectron2.layers.get_norm``; "GN" also takes fewer channels than 32.
    """
    layer = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=not norm,
        norm=_norm(norm, out_channels),
        activation=activation,
    )
    weight_init.c2_msra_fill(layer)
    return layer


def _norm(name: str, channels: int) -> nn.Module | None:
    if name == "GN":  # get_norm has 32 groups, whatever the channels
        return nn.GroupNorm(math.gcd(32, channels), channels)
    return get_norm(name, channels)


def conv_stack(in_channels: int, width: int, number: int, norm: str = "") -> nn.Sequential:
    """``number`` 3 x 3 convolutions of one width; the identity if there are none."""
    widths = [in_channels] + [width] * number
    return nn.Sequential(*(conv(a, b, norm=norm) for a, b in zip(widths, widths[1:])))


def upsampling(in_channels: int, out_channels: int) -> ConvTranspose2d:
    """A transposed convolution that doubles the size."""
    layer = ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
    weight_init.c2_msra_fill(layer)
    return layer


def mask_predictor(in_channels: int, num_classes: int) -> Conv2d:
    """The last 1 x 1 convolution, initialised to logits near 0."""
    layer = Conv2d(in_channels, num_classes, kernel_size=1)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.constant_(layer.bias, 0)
    return layer
