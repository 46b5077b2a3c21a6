# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Convolutions of a model for inference: activation and residual in the same pass over memory."""

from __future__ import annotations

from functools import cache

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling.mixins import ModuleMixin, mix_in
from . import winograd

__all__ = ["speed_up_convolutions"]


def speed_up_convolutions(model: nn.Module) -> int:
    """Let the convolutions of ``model`` run on oneDNN, with the ReLU that follows, in place.

    By itself torch runs 1 x 1 convolutions outside oneDNN on one thread, and small ones always; and
    each ReLU and residual sum is one more pass over a map that no cache holds. On a CPU, wide 3 x 3
    convolutions in float32 get the weights for :mod:`winograd`, too, four times their size.

    Args:
        model: for inference, with its norms folded.

    Returns:
        the number of convolutions.
    """
    number = 0
    fewer_products = model.device.type == "cpu"
    for module in list(model.modules()):
        kind = type(module)
        if kind in (nn.Conv2d, Conv2d) and module.padding_mode == "zeros":
            if not isinstance(module.padding, str):
                mix_in(_Fast, module)
                number += 1
                if fewer_products and _is_wide(module):
                    transformed = winograd.transform_weight(module.weight.detach())
                    module.register_buffer("transformed", transformed, persistent=False)
        elif kind in _BLOCKS and not any(getattr(c, "norm", None) for c in module.children()):
            mix_in(_BLOCKS[kind], module)
    return number


class _Fast(ModuleMixin):
    """nn.Conv2d, or Detectron2's Conv2d with norm and activation."""

    weight: Tensor
    bias: Tensor | None
    padding: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def forward(self, x: Tensor) -> Tensor:
        norm, activation = getattr(self, "norm", None), getattr(self, "activation", None)
        if norm is None and _is_relu(activation):
            return self.run(x, relu=True)
        x = self.run(x)
        if norm is not None:
            x = norm(x)
        return x if activation is None else activation(x)

    def run(self, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """The convolution alone; then ``+ add``; then ReLU."""
        x = x.to(self.weight.dtype)
        transformed = getattr(self, "transformed", None)
        if not _takes_onednn(x):
            geometry = (self.stride, self.padding, self.dilation, self.groups)
            x = F.conv2d(x, self.weight, self.bias, *geometry)
            return _add(x, add, relu)
        last: str | None = "relu" if relu else "none"
        width, channels = self.weight.shape[:2]
        if transformed is not None and winograd.is_worthwhile(channels, width, x.shape):
            x = winograd.convolve(x, transformed, self.bias, relu=relu and add is None)
            return x if add is None else _add(x, add, relu)
        op = torch.ops.mkldnn._convolution_pointwise
        where = (self.padding, self.stride, self.dilation, self.groups)
        if add is None:
            return op(x, self.weight, self.bias, *where, last, [], "")
        last = last if relu else None
        return op.binary(x, add, self.weight, self.bias, *where, "add", 1.0, last, [], None)


def _add(x: Tensor, other: Tensor | None, relu: bool) -> Tensor:
    x = x if other is None else x.add_(other)
    return x.relu_() if relu else x


def _is_wide(conv: nn.Conv2d) -> bool:
    """Whether :mod:`winograd` computes this convolution, and faster."""
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    return (
        geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
        and conv.weight.dtype == torch.float32
        and winograd.is_worthwhile(conv.in_channels, conv.out_channels)
    )


class _Bottleneck(ModuleMixin):
    conv1: _Fast
    conv2: _Fast
    conv3: _Fast
    shortcut: nn.Module | None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out = self.conv2.run(self.conv1.run(x, relu=True), relu=True)
        return self.conv3.run(out, relu=True, add=shortcut)


class _Basic(ModuleMixin):
    conv1: _Fast
    conv2: _Fast
    shortcut: nn.Module | None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv2.run(self.conv1.run(x, relu=True), relu=True, add=shortcut)


class _Stem(ModuleMixin):
    conv1: _Fast

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1.run(x, relu=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


_BLOCKS = {BottleneckBlock: _Bottleneck, BasicBlock: _Basic, BasicStem: _Stem}


def _is_relu(activation) -> bool:
    return activation in (F.relu, F.relu_, torch.relu) or type(activation) is nn.ReLU


def _takes_onednn(x: Tensor) -> bool:
    """Whether torch's fused operator takes ``x``; it has no gradient, and a compiler none to see."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch.is_inference_mode_enabled()
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.numel() > 0
        and torch.backends.mkldnn.enabled
        and _onednn_has(x.dtype)
    )


@cache
def _onednn_has(dtype: torch.dtype) -> bool:
    ops = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and hasattr(ops, "_convolution_pointwise")):
        return False
    if dtype == torch.bfloat16:
        return ops._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return ops._is_mkldnn_fp16_supported()
    return dtype == torch.float32
