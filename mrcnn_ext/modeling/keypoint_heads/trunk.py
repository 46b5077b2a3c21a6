# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The layers that keypoint heads have in common."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import Conv2d, ConvTranspose2d, get_norm
from torch import nn
from torch.nn import functional as F

__all__ = ["initialize", "trunk_layers", "upsampling"]


def trunk_layers(
    in_channels: int, conv_dims: Sequence[int], *, norm: str = "", light: bool = False
) -> list[tuple[str, nn.Module]]:
    """3 x 3 convolutions with ReLU, under the names that Detectron2's keypoint head gives them.

    Args:
        in_channels: of the RoI features.
        conv_dims: width of each convolution.
        norm: normalisation after each, as for ``detectron2.layers.get_norm``; "": none.
        light: make each of them a depthwise 3 x 3 and a pointwise 1 x 1 convolution (Howard et al.,
            "MobileNets", 2017), which is about a ninth of the multiplications.

    Returns:
        names and modules, in order.
    """
    layers = []
    for index, width in enumerate(conv_dims, 1):
        layers.append((f"conv_fcn{index}", _conv(in_channels, width, norm, light)))
        layers.append((f"conv_fcn_relu{index}", nn.ReLU()))
        in_channels = width
    return layers


def _conv(in_channels: int, width: int, norm: str, light: bool) -> nn.Module:
    if not light:
        return Conv2d(in_channels, width, 3, padding=1, bias=not norm, norm=get_norm(norm, width))
    depthwise = Conv2d(
        in_channels,
        in_channels,
        3,
        padding=1,
        groups=in_channels,
        bias=not norm,
        norm=get_norm(norm, in_channels),
        activation=F.relu,
    )
    pointwise = Conv2d(in_channels, width, 1, bias=not norm, norm=get_norm(norm, width))
    return nn.Sequential(depthwise, pointwise)


def upsampling(in_channels: int, out_channels: int) -> ConvTranspose2d:
    """The transposed convolution that doubles the size, Detectron2's ``score_lowres``."""
    return ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)


def initialize(module: nn.Module) -> None:
    """Weights of convolutions and biases as in Detectron2's keypoint head."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
