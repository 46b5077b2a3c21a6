# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Layers in half precision; what makes boxes, scores and points of their results in float32."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, KRCNNConvDeconvUpsampleHead
from torch import Tensor, nn

from ..modeling.compute import in_float32
from ..modeling.keypoint_heads.base import KeypointHeadBase
from ..modeling.mask_heads import MaskHeadBase
from ..modeling.mixins import ModuleMixin, mix_in

__all__ = ["halve"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def halve(model: nn.Module, dtype: torch.dtype) -> None:
    """Store and compute the layers of ``model`` in ``dtype``, in place; it is to run under autocast.

    In float32 stay: the box predictors and the last layers of keypoint heads, since 8 bits of a
    regression or of the place of a peak are pixels; all that is done with the RPN's results; masks from
    their logits on.

    Args:
        model: for inference, in float32.
        dtype: torch.bfloat16 or torch.float16.
    """
    exact: set[nn.Module] = set()
    for name, module in list(model.named_modules()):
        if isinstance(module, FastRCNNOutputLayers):
            mix_in(_Float32, module)
            exact.update(module.modules())
        elif isinstance(module, KeypointHeadBase):
            mix_in(_ExactPredictions, module)
            halved = {getattr(module, part) for part in module.trunk_names} | {module.mask_guide}
            exact.update(m for child in module.children() if child not in halved
                         for m in child.modules())  # fmt: skip
        elif isinstance(module, KRCNNConvDeconvUpsampleHead):
            mix_in(_Float32, module.score_lowres)
            exact.add(module.score_lowres)
        elif isinstance(module, MaskHeadBase):
            mix_in(_Float32Logits, module)
        elif name in ("proposal_generator.rpn_head", "head", "sem_seg_head"):
            mix_in(_Float32Results, module)
    for module in model.modules():
        if isinstance(module, _LAYERS) and module not in exact:
            module.to(dtype)


class _Float32(ModuleMixin):
    def forward(self, *arguments: Any) -> Any:
        with torch.autocast(_device_type(self), enabled=False):
            return super().forward(*in_float32(arguments))


class _Float32Results(ModuleMixin):
    def forward(self, *arguments: Any) -> Any:
        return in_float32(super().forward(*arguments))


class _ExactPredictions(ModuleMixin):
    def predict(self, features: Tensor) -> Any:
        with torch.autocast(_device_type(self), enabled=False):
            return super().predict(features.float())  # type: ignore[misc]


class _Float32Logits(ModuleMixin):
    def predict(self, inputs) -> list[Tensor]:
        return in_float32(super().predict(inputs))  # type: ignore[misc]


def _device_type(module: nn.Module) -> str:
    return next(module.parameters()).device.type
