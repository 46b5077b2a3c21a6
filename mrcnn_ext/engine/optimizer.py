# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Optimizers by config: AdamW or SGD, learning rates by layer, clipping by global norm."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.modeling.backbone.resnet import ResNet
from detectron2.solver.build import (
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
    reduce_param_groups,
)
from torch import nn

from ..config.check_training import set_training_keys
from ..errors import ConfigError
from ..messages import similar

__all__ = ["build_optimizer", "create_optimizer", "get_param_groups", "optimizer_keys_set"]

_KEYS = {"OPTIMIZER", "BETAS", "EPS", "LAYER_DECAY", "BACKBONE_LR_FACTOR"}
_KEYS |= {"NO_DECAY_NORM_AND_BIAS", "CLIP_NORM"}
_KEYS = {f"MRCNN_EXT.SOLVER.{name}" for name in _KEYS}
# Where a neck keeps the backbone that it is on: Detectron2's FPN, its SimpleFeaturePyramid.
_TRUNKS = ("bottom_up", "net")
# Lists of blocks in Detectron2's ViT and MViT, and in its SwinTransformer (whose stages have blocks)
_BLOCKS = ("blocks", "layers")
# Tables that say where a patch is; their size says nothing about the model's complexity.
_POSITIONS = {"pos_embed", "absolute_pos_embed", "relative_position_bias_table"}
_POSITIONS |= {"rel_pos_h", "rel_pos_w", "cls_token"}


def optimizer_keys_set(cfg) -> bool:
    """Whether a key of ``cfg`` asks for another optimizer than Detectron2 builds."""
    return not _KEYS.isdisjoint(set_training_keys(cfg))


def build_optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``MRCNN_EXT.SOLVER`` and Detectron2's ``SOLVER`` describe.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        model: on its device; frozen parameters are left out.

    Raises:
        ConfigError: nothing can be trained, or LAYER_DECAY for a backbone whose layers are unknown.
    """
    keys, solver = cfg.MRCNN_EXT.SOLVER, cfg.SOLVER
    groups = get_param_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        layer_decay=keys.LAYER_DECAY,
        backbone_lr_factor=keys.BACKBONE_LR_FACTOR,
        no_decay_norm_and_bias=keys.NO_DECAY_NORM_AND_BIAS,
    )
    options: dict[str, Any] = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    if keys.OPTIMIZER == "AdamW":
        options = {"betas": tuple(keys.BETAS), "eps": keys.EPS}
    optimizer = create_optimizer(
        groups,
        name=keys.OPTIMIZER or "SGD",
        clip_norm=keys.CLIP_NORM,
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        **options,
    )
    if solver.CLIP_GRADIENTS.ENABLED:
        optimizer = maybe_add_gradient_clipping(cfg, optimizer)
        _unscale_before_step(optimizer)
    return optimizer


def create_optimizer(
    params: Iterable,
    *,
    name: str = "AdamW",
    clip_norm: float = 0.0,
    fused: bool | None = None,
    **options,
) -> torch.optim.Optimizer:
    """An optimizer of ``torch.optim`` that can clip the norm of all gradients before each step.

    In a LazyConfig it takes the place of the class, with the unmodified ``lazyconfig_train_net.py``::

        optimizer = L(create_optimizer)(
            name="AdamW", lr=1e-4, weight_decay=0.05, clip_norm=1.0,
            params=L(get_param_groups)(base_lr="${..lr}", layer_decay=0.8),
        )

    Clipping is that of :func:`torch.nn.utils.clip_grad_norm_`. Under a GradScaler it sees gradients
    that are no longer scaled; under DistributedDataParallel the mean of all processes', the same in
    each.

    Args:
        params: parameters, or groups of them.
        name: of a class in ``torch.optim``.
        clip_norm: largest L2 norm of all gradients together; 0 does not clip.
        fused: one kernel for all parameters of a group. None: where the device has it.
        options: of the class, such as ``lr`` and ``weight_decay``.

    Raises:
        ConfigError: an unknown name, a negative norm, or no parameter that can be trained.
    """
    cls = _optimizer_class(name)
    if clip_norm < 0:
        raise ConfigError(f"clip_norm of the optimizer is {clip_norm}; expected 0 or more.")
    groups = list(params)
    tensors = [tensor for group in groups for tensor in _tensors(group)]
    if not tensors:
        raise ConfigError(
            "nothing can be trained: the model has no parameter that is not frozen "
            "(MODEL.BACKBONE.FREEZE_AT, requires_grad)."
        )
    if fused is None and _can_be_fused(cls, tensors):
        fused = True
    if fused is not None:
        options["fused"] = fused
    if not clip_norm:
        return cls(groups, **options)
    optimizer = _clipped(cls)(groups, **options)  # type: ignore[arg-type]
    optimizer.clip_norm = clip_norm
    _unscale_before_step(optimizer)
    return optimizer


def get_param_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float = 1.0,
    weight_decay_bias: float | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
    layer_decay: float = 1.0,
    backbone_lr_factor: float = 1.0,
    no_decay_norm_and_bias: bool = False,
) -> list[dict[str, Any]]:
    """Detectron2's ``get_default_optimizer_params``, with learning rates by layer.

    The last of the backbone's L layers learns with ``layer_decay`` times its rate, the first with
    ``layer_decay ** L``, all else with the whole rate (Bao et al. 2021, BEiT; Li et al. 2022, ViTDet).
    Layers are timm's (``group_matcher``), the blocks of Detectron2's transformers, or stem and stages
    of its ResNets.

    Args:
        model: with an attribute ``backbone`` if one of the next two arguments is not 1.
        base_lr, weight_decay, weight_decay_norm, bias_lr_factor, weight_decay_bias, overrides: as for
            Detectron2's function.
        layer_decay: in (0, 1].
        backbone_lr_factor: of the backbone without its neck.
        no_decay_norm_and_bias: no weight decay of biases, of all other parameters of one dimension,
            as norms have them, and of tables of positions.

    Returns:
        groups with "params", "lr" and what else differs, each combination once.

    Raises:
        ConfigError: a backbone that is not there, or whose layers are unknown.
    """
    groups = get_default_optimizer_params(
        model,
        base_lr=base_lr,
        weight_decay=weight_decay,
        weight_decay_norm=weight_decay_norm,
        bias_lr_factor=bias_lr_factor,
        weight_decay_bias=weight_decay_bias,
        overrides=dict(overrides) if overrides else None,
    )
    factors = _lr_factors(model, layer_decay, backbone_lr_factor)
    undecayed = _undecayed(model) if no_decay_norm_and_bias else set()
    if not factors and not undecayed:
        return groups
    single = []
    for group in groups:
        for parameter in group["params"]:
            item = {**group, "params": [parameter]}
            item["lr"] = group["lr"] * factors.get(parameter, 1.0)
            if parameter in undecayed:
                item["weight_decay"] = 0.0
            single.append(item)
    return reduce_param_groups(single)


def _lr_factors(model: nn.Module, layer_decay: float, factor: float) -> dict[nn.Parameter, float]:
    """Of the backbone's parameters; none if all have 1."""
    if layer_decay == 1 and factor == 1:
        return {}
    trunk = _trunk(model)
    if layer_decay == 1:
        return dict.fromkeys(trunk.parameters(), factor)
    layers = _parameter_layers(trunk)
    numbers = sorted(set(layers.values()))
    place = {number: index for index, number in enumerate(numbers)}
    return {
        parameter: factor * layer_decay ** (len(numbers) - place[layers[name]])
        for name, parameter in trunk.named_parameters()
    }


def _trunk(model: nn.Module) -> nn.Module:
    """The backbone below its neck."""
    trunk = getattr(model, "backbone", None)
    if not isinstance(trunk, nn.Module):
        raise ConfigError(
            f"{type(model).__name__} has no backbone that could learn at another rate; expected "
            "MRCNN_EXT.SOLVER.LAYER_DECAY (layer_decay) and BACKBONE_LR_FACTOR (backbone_lr_factor) "
            "to be 1."
        )
    while True:
        inner = [getattr(trunk, name, None) for name in _TRUNKS]
        found = next((part for part in inner if isinstance(part, nn.Module)), None)
        if found is None:
            return trunk
        trunk = found


def _parameter_layers(trunk: nn.Module) -> dict[str, int]:
    if hasattr(trunk, "parameter_layers"):  # TimmBackbone, or one of the user's own
        return trunk.parameter_layers()
    names = [name for name, _ in trunk.named_parameters()]
    if isinstance(trunk, ResNet):
        stages = ["stem", *trunk.stage_names]
        known = {stage: number for number, stage in enumerate(stages)}
        return {name: known.get(name.split(".")[0], len(stages) - 1) for name in names}
    list_name = next(
        (n for n in _BLOCKS if isinstance(getattr(trunk, n, None), nn.ModuleList)), None
    )
    if list_name is None:
        raise ConfigError(
            f"MRCNN_EXT.SOLVER.LAYER_DECAY (layer_decay): the layers of {type(trunk).__name__} are "
            "not known. Give the class a method parameter_layers() that returns a dict of the names "
            "of its parameters and the number of their layer, from 0 at the image; or expect 1."
        )
    blocks = _numbered_blocks(trunk, list_name)
    return {name: _layer_in_blocks(name, blocks) for name in names}


def _numbered_blocks(trunk: nn.Module, list_name: str) -> dict[str, int]:
    """Beginnings of names -> number of the block, from 1."""
    found, number = {}, 0
    for index, block in enumerate(getattr(trunk, list_name)):
        inner = getattr(block, "blocks", None)
        if isinstance(inner, nn.ModuleList):  # a stage of Swin: blocks, then its downsampling
            for place in range(len(inner)):
                number += 1
                found[f"{list_name}.{index}.blocks.{place}."] = number
        else:
            number += 1
        found[f"{list_name}.{index}."] = number
    return found


def _layer_in_blocks(name: str, blocks: dict[str, int]) -> int:
    prefixes = [prefix for prefix in blocks if name.startswith(prefix)]
    if prefixes:
        return blocks[max(prefixes, key=len)]
    # Embeddings of patches and positions come before the blocks, norms of the outputs after them.
    return 0 if "embed" in name or name == "cls_token" else max(blocks.values(), default=0)


def _undecayed(model: nn.Module) -> set[nn.Parameter]:
    found = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim <= 1 or name == "bias" or name in _POSITIONS:
                found.add(parameter)
        own = getattr(module, "no_weight_decay", None)
        if callable(own):  # timm's models, and TimmBackbone
            exempt = set(own())
            found |= {p for name, p in module.named_parameters() if name in exempt}
    return found


def _tensors(group) -> list[torch.Tensor]:
    return list(group["params"]) if isinstance(group, dict) else [group]


def _optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    cls = getattr(torch.optim, str(name), None)
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer):
        return cls
    known = [n for n, c in vars(torch.optim).items() if isinstance(c, type)]
    near = similar(str(name), known)
    raise ConfigError(
        f"the optimizer is {name!r}, which torch.optim does not have; expected SGD, AdamW or another"
        + (f" (similar: {', '.join(near)})." if near else ".")
    )


def _can_be_fused(cls: type, tensors: list[torch.Tensor]) -> bool:
    """Whether PyTorch has a fused kernel for all of ``tensors``, on a GPU: on CPUs it may be slower."""
    return "fused" in inspect.signature(cls).parameters and all(
        tensor.device.type == "cuda" and tensor.is_floating_point() for tensor in tensors
    )


class _ClippedNorm:
    clip_norm: float
    param_groups: list[dict[str, Any]]

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        return super().step(closure)  # type: ignore[misc]


@functools.cache
def _clipped(cls: type[torch.optim.Optimizer]) -> Any:
    return type(f"{cls.__name__}WithClippedNorm", (_ClippedNorm, cls), {"__module__": __name__})


def _unscale_before_step(optimizer: torch.optim.Optimizer) -> None:
    """Fused optimizers undo a GradScaler's scaling in their kernel, which is after the clipping."""
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
