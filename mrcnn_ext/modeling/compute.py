# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How a model computes in training: memory layout, half precision, recomputed activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from detectron2.layers import CNNBlockBase
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError
from ..precision import compute_dtype
from .backbone import TimmBackbone
from .mixins import ModuleMixin, mix_in

__all__ = [
    "Recomputed",
    "autocast_for",
    "check_autocast",
    "float32_results",
    "in_float32",
    "recompute_backbone",
]


def check_autocast(name: str, setting: str) -> None:
    """
    Args:
        name: of the dtype.
        setting: what the message calls the argument or key.

    Raises:
        ConfigError: it is not "bfloat16".
    """
    if name != "bfloat16":
        raise ConfigError(
            f"{setting} is {name!r}; expected 'bfloat16', or '' for float32. float16 needs scaled "
            "gradients: that is Detectron2's SOLVER.AMP.ENABLED (train.amp.enabled), for GPUs."
        )


def autocast_for(name: str, device: torch.device, setting: str) -> torch.autocast:
    """The context in which layers compute in the dtype ``name``; arguments as above.

    Raises:
        ConfigError: another name, or a device that has no bfloat16 in hardware.
    """
    check_autocast(name, setting)
    return torch.autocast(device.type, dtype=compute_dtype(name, device, setting))


def float32_results(model: nn.Module) -> None:
    """Let RPN and box predictors give float32 under autocast: what follows is box arithmetic.

    The losses of mask and keypoint heads convert their logits by themselves.
    """
    head = getattr(getattr(model, "proposal_generator", None), "rpn_head", None)
    modules: Iterator[nn.Module] = model.modules()
    for module in modules:
        if module is head or isinstance(module, FastRCNNOutputLayers):
            assert module is not None
            module.register_forward_hook(_results_to_float32)


def _results_to_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    return in_float32(output)


def in_float32(value: Any) -> Any:
    """``value`` with floating-point tensors in float32, also those in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: in_float32(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(in_float32(item) for item in value)
    return value


# ---- Activations -----------------------------------------------------------------------------------


def recompute_backbone(backbone: nn.Module, setting: str) -> int:
    """Let each block of a backbone keep its input only, and compute the rest again for gradients.

    Args:
        backbone: Detectron2's ResNet or RegNet, a TimmBackbone, or one of them below a neck.
        setting: what a message calls the argument or key.

    Returns:
        the number of blocks.

    Raises:
        ConfigError: it has no blocks that are known.
    """
    blocks = _blocks(backbone)
    if not blocks:
        raise ConfigError(
            f"{setting} is True, but {type(backbone).__name__} has no blocks that this package knows: "
            "it works for Detectron2's ResNet and RegNet and for timm backbones."
        )
    for block in blocks:
        mix_in(Recomputed, block)
    return len(blocks)


def _blocks(backbone: nn.Module) -> list[nn.Module]:
    found = [module for module in backbone.modules() if isinstance(module, CNNBlockBase)]
    for module in backbone.modules():
        if isinstance(module, TimmBackbone):
            found += _in_sequences(module.body)
    return found


def _in_sequences(module: nn.Module) -> list[nn.Module]:
    """Outermost modules in an nn.Sequential that are none themselves: timm's blocks."""
    found = []
    for child in module.children():
        inside = isinstance(module, nn.Sequential) and not isinstance(child, nn.Sequential)
        if inside and sum(p.dim() > 1 for p in child.parameters()) > 1:
            found.append(child)
        else:
            found += _in_sequences(child)
    return found


class Recomputed(ModuleMixin):
    """A block that runs again in the backward pass (torch.utils.checkpoint)."""

    def forward(self, x: Tensor) -> Tensor:
        run = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return run(x)
        return checkpoint(
            run, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _fixed_statistics(self))
        )


@contextmanager
def _fixed_statistics(block: nn.Module) -> Iterator[None]:
    """Without it, the second run would move BatchNorm's running statistics a second time."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
