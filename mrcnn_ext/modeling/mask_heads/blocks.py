# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Layers that mask heads are made of, initialised as Detectron2's own head is."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, get_norm
from torch import nn
from torch.nn import functional as F

from ...errors import ConfigError

__all__ = ["common_channels", "conv", "conv_stack", "mask_predictor", "upsampling"]


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    norm: str = "",
    activation=F.relu,
) -> Conv2d:
    """A convolution that keeps the size (up to ``stride``), normalisation if any, activation if any."""
    layer = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=activation,
    )
    weight_init.c2_msra_fill(layer)
    return layer


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
    """The last 1 x 1 convolution: logits near 0 at the start, so that no class is ahead."""
    layer = Conv2d(in_channels, num_classes, kernel_size=1)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.constant_(layer.bias, 0)
    return layer


def common_channels(maps: dict[str, ShapeSpec], names: list[str], key: str) -> int:
    """Channels of the feature maps ``names``, which ``key`` of the config chose.

    Raises:
        ConfigError: a map that is not there, or maps of different widths.
    """
    unknown = [name for name in names if name not in maps]
    if unknown:
        raise ConfigError(f"{key} names {unknown}; MODEL.ROI_HEADS.IN_FEATURES has {list(maps)}.")
    channels = {maps[name].channels for name in names}
    if len(channels) != 1:
        raise ConfigError(
            f"{key} names {names}, which have {sorted(channels)} channels; expected as many in each."
        )
    return channels.pop()
