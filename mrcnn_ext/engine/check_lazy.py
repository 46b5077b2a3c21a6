# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A LazyConfig for training: its nodes, the values of ``train``, and what its nodes build."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import hooks
from omegaconf import OmegaConf

from ..config.ranges import is_number
from ..data.loading import check_masks_of_tests
from ..errors import ConfigError
from ..evaluation.tasks import TASKS
from ..messages import describe, similar

__all__ = ["build_all", "build_node", "call_with_node", "check_lazy"]

logger = logging.getLogger("detectron2." + __name__)  # which its tools print

_NODES = ("model", "train", "train.device", "train.init_checkpoint")
_TRAINING_NODES = (
    *("optimizer.params", "lr_multiplier", "dataloader.train", "train.output_dir"),
    *("train.max_iter", "train.amp.enabled", "train.checkpointer", "train.eval_period"),
    "train.log_period",
)
_MAY_BE_NULL = ("train.init_checkpoint", "train.output_dir")  # the command asks for the latter
# Least values of whole numbers
_LEAST: dict[str, float] = {"max_iter": 1, "log_period": 1, "checkpointer.period": 1}
_LEAST |= {"eval_period": -math.inf, "seed": -math.inf}
_SEEDS = 2**32  # NumPy's
# Evaluators that need a mask of every object, unless boxes_only says otherwise
_NEED_MASKS = ("COCOEvaluator", "MrcnnExtCOCOEvaluator", "coco_evaluator")
_ADVICE = (
    "Let dataloader.evaluator be mrcnn_ext.evaluation.MrcnnExtCOCOEvaluator with boxes_only=True, "
    "which evaluates masks without these objects, or name a set in which every object has a mask."
)
# All that is read: by Detectron2's script, and by train_lazy
_KNOWN = (
    *("output_dir", "init_checkpoint", "max_iter", "amp", "ddp", "checkpointer", "eval_period"),
    *("log_period", "device", "seed", "cudnn_benchmark", "float32_precision", "model_ema", "fsdp"),
    *("accumulate", "ema", "early_stopping", "exact_resume", "hooks", "writers", "wandb"),
    "first_convolution",
)
# Where a mistake in the config becomes an exception; one in the user's code needs its traceback.
_LIBRARIES = {"detectron2", "fvcore", "hydra", "iopath", "omegaconf", "torch", "mrcnn_ext"}


def check_lazy(cfg, *, training: bool = True) -> None:
    """Check what can be checked before anything is built.

    Args:
        cfg: a LazyConfig.
        training: it is to be trained.

    Raises:
        ConfigError: a node is missing or null, or a value cannot work; names it.
        DataError: a test set lacks masks that its evaluator needs.
    """
    for node in (*_NODES, *(_TRAINING_NODES if training else ())):
        if _missing(cfg, node):
            raise ConfigError(
                f"the LazyConfig has no {node}; detectron2's configs/common/train.py has all of "
                "train, and docs/training.md shows a whole config."
            )
    train = cfg.train
    try:
        device = torch.device(str(train.device)).type
    except RuntimeError as error:
        raise _unexpected("device", train.device, "'cuda' or 'cpu'") from error
    if train.init_checkpoint is not None and not isinstance(train.init_checkpoint, str):
        raise _unexpected("init_checkpoint", train.init_checkpoint, "a file, or ''")
    _check_masks(cfg)
    _check_pixels(cfg)
    if not training:
        return
    _check_values(train)
    if device == "cpu" and train.amp.enabled:
        raise ConfigError(
            "train.amp.enabled is True, but train.device is 'cpu', and Detectron2's mixed precision "
            "works on GPUs only; expected False. model.autocast='bfloat16' computes in half "
            "precision on CPUs."
        )
    for name in train:
        near = similar(str(name), _KNOWN, most=1, likeness=0.75) if name not in _KNOWN else []
        if near:
            logger.warning(
                f"train.{name} is not read by this command; did you mean train.{near[0]}?"
            )


def _check_masks(cfg) -> None:
    names = OmegaConf.select(cfg, "dataloader.test.dataset.names")
    if not names or not OmegaConf.select(cfg, "model.roi_heads.mask_head"):
        return
    nodes = cfg.dataloader.get("evaluator")
    for node in nodes if OmegaConf.is_list(nodes) else [nodes]:
        if not OmegaConf.is_dict(node):
            continue
        kind = node.get("_target_")
        name = (kind if isinstance(kind, str) else getattr(kind, "__name__", "")).split(".")[-1]
        takes = name != "COCOEvaluator" and node.get("boxes_only", False)
        tasks = node.get("tasks")
        if name in _NEED_MASKS and not takes and (not tasks or {*tasks} & _of_masks()):
            listed = [names] if isinstance(names, str) else list(names)
            check_masks_of_tests(listed, _ADVICE)


def _check_pixels(cfg) -> None:
    lists: dict[str, list] = {}
    for key in ("model.pixel_mean", "model.pixel_std"):
        values = OmegaConf.select(cfg, key)
        if not OmegaConf.is_list(values):  # the model decides what else it takes
            continue
        lists[key] = list(values)
        if not all(map(is_number, values)):
            raise ConfigError(f"{key} is {describe(lists[key])}; expected finite numbers.")
        if key.endswith("std") and any(value <= 0 for value in values):
            raise ConfigError(
                f"{key} is {describe(lists[key])}; expected numbers above 0, which pixels are divided "
                "by (1.0 for a band that is constant)."
            )
    for part in ("train", "test"):
        name = f"dataloader.{part}.mapper.bands"
        bands = OmegaConf.select(cfg, name)
        if not OmegaConf.is_list(bands) or not bands:
            continue
        for key, values in lists.items():
            if len(values) != len(bands):
                raise ConfigError(
                    f"{key} has {len(values)} numbers, but {name} has {len(bands)} bands; expected one "
                    "for each (python -m mrcnn_ext.data.stats prints them)."
                )
        for key in ("in_channels", "stem.in_channels"):
            key = f"model.backbone.bottom_up.{key}"
            channels = OmegaConf.select(cfg, key)
            if channels is not None and channels != len(bands):
                raise ConfigError(
                    f"{key} is {channels}, but {name} has {len(bands)} bands; expected {len(bands)}."
                )


def _of_masks() -> set[str]:
    return {task.name for task in TASKS.values() if task.of_masks}


def _missing(cfg, node: str) -> bool:
    place: Any = cfg
    for name in node.split("."):
        if not OmegaConf.is_dict(place) or name not in place:
            return True
        place = place[name]
    return place is None and node not in _MAY_BE_NULL


def _check_values(train) -> None:
    for key, least in _LEAST.items():
        value = OmegaConf.select(train, key, default=None if key in train else 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            more = f", {least} or more" if math.isfinite(least) else ""
            raise _unexpected(key, value, f"a whole number{more}")
    if train.get("seed", 0) >= _SEEDS:
        raise _unexpected("seed", train.seed, f"a whole number less than {_SEEDS}")
    for key in ("amp.enabled", "exact_resume"):
        value = OmegaConf.select(train, key, default=False)
        if not isinstance(value, bool):
            raise _unexpected(key, value, "True or False")
    if "ddp" in train and not OmegaConf.is_dict(train.ddp):
        raise _unexpected("ddp", train.ddp, "a dict of arguments")
    for key in ("hooks", "writers"):
        value = train.get(key)
        if value is None:
            continue
        if not OmegaConf.is_list(value) or not all(OmegaConf.is_dict(item) for item in value):
            raise _unexpected(key, value, "a list of LazyCalls")
    _bind("checkpointer", train, hooks.PeriodicCheckpointer, None)


def _unexpected(key: str, value, expected: str) -> ConfigError:
    return ConfigError(f"train.{key} is {describe(value)}; expected {expected}.")


def _bind(name: str, train, function: Callable, *args, **defaults) -> dict[str, Any]:
    if not OmegaConf.is_dict(train[name]):
        raise _unexpected(name, train[name], "a dict of arguments")
    given: Any = OmegaConf.to_container(train[name], resolve=True)
    try:
        inspect.signature(function).bind(*args, **{**defaults, **given})
    except TypeError as error:
        raise ConfigError(f"train.{name}: {error}.") from error
    return {**defaults, **given}


def call_with_node(name: str, train, function: Callable, *args, **defaults):
    """Call a function with the arguments of a node of ``train``.

    Raises:
        ConfigError: the node is no dict, or has arguments of other names or types; names it.
    """
    arguments = _bind(name, train, function, *args, **defaults)
    try:
        return function(*args, **arguments)
    except TypeError as error:
        raise ConfigError(f"train.{name}: {error}.") from error


def build_node(name: str, node):
    """``instantiate``, whose errors name the node where the config is wrong.

    Raises:
        ConfigError: there is no such class, or it takes no such arguments. Exceptions in code of the
            user's own are left as they are.
    """
    try:
        return instantiate(node)
    except ConfigError:
        raise
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        if not _is_of_library(error):
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name} cannot be built: {type(error).__name__}: {reason}") from error


def build_all(name: str, nodes, kind: type) -> list:
    """Build the nodes of a list.

    Raises:
        ConfigError: as :func:`build_node`, or one is of another kind.
    """
    built = [build_node(f"{name}[{index}]", node) for index, node in enumerate(nodes)]
    for index, item in enumerate(built):
        if not isinstance(item, kind):
            raise ConfigError(
                f"{name}[{index}] is a {type(item).__name__}; expected a {kind.__name__}."
            )
    return built


def _is_of_library(error: Exception) -> bool:
    """Whether it was raised within a library, or by a call from there that does not fit."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return module.split(".")[0] in _LIBRARIES
