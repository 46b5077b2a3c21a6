# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Freezing and exchanging the BatchNorm layers of timm models.

timm fuses the activation into many of its BatchNorm layers (``BatchNormAct2d``). Detectron2's
``FrozenBatchNorm2d.convert_frozen_batchnorm`` does not know that and drops the activation, so
everything here goes through timm's own helpers or keeps the activation by hand.
"""

from __future__ import annotations

import math

from torch import nn

from ...errors import ConfigError

__all__ = ["TIMM_NORMS", "convert_norm", "freeze_module"]

TIMM_NORMS = ("FrozenBN", "BN", "SyncBN", "GN")


def convert_norm(model: nn.Module, norm: str, model_name: str) -> nn.Module:
    """Return ``model`` with its BatchNorm layers treated as ``norm`` says.

    Args:
        model: a timm model.
        norm: one of :data:`TIMM_NORMS`.
        model_name: for error messages.

    Raises:
        ConfigError: unknown ``norm``, or "SyncBN"/"GN" for a model without BatchNorm.
    """
    from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

    if norm not in TIMM_NORMS:
        raise ConfigError(f"MRCNN_EXT.TIMM.NORM is '{norm}', expected one of {list(TIMM_NORMS)}.")
    if norm == "BN":
        return model
    if norm == "FrozenBN":
        return freeze_batch_norm_2d(model)
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        raise ConfigError(
            f"MRCNN_EXT.TIMM.NORM is '{norm}', but '{model_name}' has no BatchNorm to convert; "
            "use 'BN' or 'FrozenBN', which leave such a model as it is."
        )
    return convert_sync_batchnorm(model) if norm == "SyncBN" else _to_group_norm(model)


def freeze_module(module: nn.Module) -> nn.Module:
    """Fix all parameters and BatchNorm statistics of ``module``; return it (or its replacement)."""
    from timm.layers import freeze_batch_norm_2d

    module = freeze_batch_norm_2d(module)
    for parameter in module.parameters():
        parameter.requires_grad = False
    return module


def _to_group_norm(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        return _group_norm_like(module)
    for name, child in module.named_children():
        new = _to_group_norm(child)
        if new is not child:
            setattr(module, name, new)
    return module


def _group_norm_like(bn: nn.BatchNorm2d) -> nn.Module:
    # At most 32 groups, as Wu & He (2018) use; fewer where the channels do not divide evenly.
    groups = math.gcd(32, bn.num_features)
    gn = nn.GroupNorm(groups, bn.num_features, eps=bn.eps)
    # BatchNormAct2d is BatchNorm -> drop -> act; keep what follows the normalisation.
    tail = [m for m in (getattr(bn, "drop", None), getattr(bn, "act", None)) if m is not None]
    tail = [m for m in tail if not isinstance(m, nn.Identity)]
    return nn.Sequential(gn, *tail) if tail else gn
