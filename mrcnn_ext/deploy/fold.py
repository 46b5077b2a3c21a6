# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Fold BatchNorm in evaluation mode into the convolution before it."""

from __future__ import annotations

from collections import Counter

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from ..modeling.backbone.timm_backbone import TimmBackbone

__all__ = ["fold_norms"]

# Exact types: a subclass may compute something else.
_NORMS = {
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    NaiveSyncBatchNorm,
    FrozenBatchNorm2d,
    TorchvisionFrozenBatchNorm2d,
}
# By name, so that a model without timm needs no timm. They end in an activation.
_TIMM_NORMS = {"BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d"}
_CONVS = {nn.Conv2d, Conv2d}
_TIMM_CONVS = {"Conv2dSame"}
_PROBE_SIDE = 64


def fold_norms(model: nn.Module) -> int:
    """Multiply the scales of BatchNorm layers into the convolutions before them, in place.

    Folded are fixed statistics alone: FrozenBN, and BatchNorm and SyncBatchNorm as they compute in
    evaluation mode; in Detectron2's ``Conv2d`` with a ``norm``, in ``nn.Sequential``, and in the timm
    network of a TimmBackbone, whose activations stay. GroupNorm and LayerNorm depend on the image and
    cannot be folded; neither can a BatchNorm without running statistics.

    Args:
        model: in evaluation mode. The result is for inference: in training, folded statistics would no
            longer be updated.

    Returns:
        the number of norms that were folded.
    """
    number = 0
    # A convolution in two places may be followed by two norms.
    uses = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for module in list(model.modules()):
        if type(module) is Conv2d and _is_norm(module.norm) and not _has_tail(module.norm):
            _fold(module, module.norm)
            module.norm = None
            number += 1
        elif type(module) is nn.Sequential:
            number += _fold_sequence(module, uses)
        elif isinstance(module, TimmBackbone):
            number += _fold_timm(module.body)
    return number


def _fold_sequence(sequence: nn.Sequential, uses: Counter[nn.Module]) -> int:
    """Fold what follows a convolution at once in a Sequential."""
    number = 0
    children = list(sequence.named_children())
    for (_, conv), (name, norm) in zip(children, children[1:]):
        if _is_conv(conv) and _is_norm(norm) and uses[conv] == uses[norm] == 1:
            _fold(conv, norm)
            setattr(sequence, name, _tail(norm))
            number += 1
    return number


def _fold_timm(body: nn.Module) -> int:
    """Fold the norms of a timm network, whose modules do not say in which order they run.

    A run on a small image shows which norm takes the result of which convolution. Another one
    afterwards shows that nothing else took it: where the features changed, all is put back.
    """
    weight = next((p for p in body.parameters() if p.dim() == 4), None)
    if weight is None:
        return 0
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, weight.shape[1], _PROBE_SIDE, _PROBE_SIDE, generator=generator).to(weight)
    pairs: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        before = _features(body, image, pairs)
    except (RuntimeError, ValueError, AssertionError):  # it takes no such image
        return 0
    kept = []
    for parent, name, conv in pairs:
        norm = getattr(parent, name)
        kept.append((parent, name, norm, conv, conv.weight, conv.bias))
        _fold(conv, norm)
        setattr(parent, name, _tail(norm))
    after = _features(body, image, [])
    if all(_close(a, b) for a, b in zip(before, after)):
        return len(pairs)
    for parent, name, norm, conv, conv_weight, bias in kept:
        setattr(parent, name, norm)
        conv.weight, conv.bias = conv_weight, bias
    return 0


@torch.no_grad()
def _features(body: nn.Module, image: Tensor, pairs: list) -> list[Tensor]:
    """Run ``body``; append the (parent, name of the norm, convolution) that follow each other."""
    places = {
        child: (parent, name)
        for parent in body.modules()
        for name, child in parent.named_children()
    }
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}  # tensor -> its convolution and version
    runs: Counter[nn.Module] = Counter()
    found: list[tuple[nn.Module, nn.Module]] = []

    def after_conv(module, inputs, output) -> None:
        runs[module] += 1
        made[id(output)] = (module, output, output._version)

    def before_norm(module, inputs) -> None:
        runs[module] += 1
        conv, output, version = made.get(id(inputs[0]), (None, None, 0))
        if conv is not None and output._version == version:
            found.append((conv, module))

    hooks = [
        module.register_forward_hook(after_conv)
        if _is_conv(module)
        else module.register_forward_pre_hook(before_norm)
        for module in places
        if _is_conv(module) or _is_norm(module)
    ]
    try:
        features = body(image)
    finally:
        for hook in hooks:
            hook.remove()
    once = [(c, n) for c, n in found if runs[c] == runs[n] == 1]
    pairs += [(*places[norm], conv) for conv, norm in once]
    return list(features)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-3 * a.abs().max() + 1e-6)


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    """New weight and bias of ``conv``, rounded once: all else is float64."""
    variance, mean = norm.running_var.double(), norm.running_mean.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean if conv.bias is None else conv.bias.double() - mean
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = conv.weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight), requires_grad=False)


def _is_conv(module: nn.Module) -> bool:
    kind = type(module)
    if kind not in _CONVS and not (kind.__name__ in _TIMM_CONVS and _is_timms(kind)):
        return False
    return getattr(module, "norm", None) is None and getattr(module, "activation", None) is None


def _is_norm(module: nn.Module | None) -> bool:
    """Whether ``module`` scales and shifts each channel by fixed numbers in evaluation mode."""
    known = type(module) in _NORMS or _has_tail(module)
    return known and getattr(module, "running_mean", None) is not None


def _has_tail(module: nn.Module | None) -> bool:
    return type(module).__name__ in _TIMM_NORMS and _is_timms(type(module))


def _is_timms(kind: type) -> bool:
    return kind.__module__.startswith("timm.")


def _tail(norm: nn.Module) -> nn.Module:
    """What is left of a folded norm: nothing, or the activation that timm fused into it."""
    if not _has_tail(norm):
        return nn.Identity()
    rest = [m for m in (getattr(norm, "drop", None), norm.act) if not isinstance(m, nn.Identity)]
    rest = [m for m in rest if m is not None]
    return rest[0] if len(rest) == 1 else nn.Sequential(*rest)
