# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Which layer of a timm model each parameter of its feature extractor belongs to."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ...errors import ConfigError

__all__ = ["timm_layers", "timm_undecayed"]


def timm_layers(model_name: str, names: Iterable[str]) -> dict[str, int]:
    """Number the layers as timm does for layer-wise decay of learning rates, the stem's first.

    ``features_only`` models have no ``group_matcher``, and names in which some dots became
    underscores. So timm is asked about the whole model, built without memory for its weights.

    Args:
        model_name: name in timm's registry.
        names: of parameters of its ``features_only`` form.

    Returns:
        name -> layer, from 0.

    Raises:
        ConfigError: timm does not divide this model into layers.
    """
    from timm.models import group_parameters

    model = _whole_model(model_name)
    if not hasattr(model, "group_matcher"):
        raise ConfigError(
            f"MRCNN_EXT.SOLVER.LAYER_DECAY: timm does not say what the layers of '{model_name}' are; "
            "expected 1."
        )
    grouped = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    known = {_canonical(name): layer for name, layer in grouped.items()}
    return {name: _layer_of(_canonical(name), known) for name in names}


def timm_undecayed(model_name: str, names: Iterable[str]) -> set[str]:
    """Those of ``names`` that timm exempts from weight decay, such as tables of positions."""
    exempt: set[str] = getattr(_whole_model(model_name), "no_weight_decay", set)()
    whole = {_canonical(name) for name in exempt}
    last = {name for name in exempt if "." not in name}  # some models give the end of names only
    return {name for name in names if _canonical(name) in whole or name.split(".")[-1] in last}


def _whole_model(model_name: str) -> nn.Module:
    import timm

    try:
        with torch.device("meta"):
            return timm.create_model(model_name)
    except (RuntimeError, NotImplementedError):  # one that computes with values as it is built
        return timm.create_model(model_name)


def _canonical(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _layer_of(name: str, known: dict[str, int]) -> int:
    """The layer of a parameter; of one that a replaced norm has, that of its neighbours."""
    while name and name not in known:
        name = name.rpartition("_")[0]
        inside = [layer for other, layer in known.items() if other.startswith(f"{name}_")]
        if name and inside:
            return inside[0]
    return known.get(name, max(known.values()))
