# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of training: which are set, and whether their values can work."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from ..errors import ConfigError
from ..messages import similar
from .check_solver import check_solver
from .check_values import changed_keys, unexpected, value_of
from .ranges import Range, check_choices, check_ranges, check_whole_numbers, is_number
from .training_defaults import add_training_defaults

__all__ = [
    "CLS_LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "WRITERS",
    "check_training",
    "check_writers",
    "set_training_keys",
]

OPTIMIZERS = ("SGD", "AdamW")
SCHEDULES = ("step", "cosine", "flat_cosine")
WRITERS = ("tensorboard", "wandb", "mlflow")
CLS_LOSSES = ("focal", "class_balanced")

_NODE = "MRCNN_EXT"
# Nodes whose keys the trainer follows.
_NODES = ("SOLVER", "EMA", "EARLY_STOPPING", "RESUME", "LOG")
_CHOICES = {
    f"{_NODE}.SOLVER.OPTIMIZER": ("", *OPTIMIZERS),
    f"{_NODE}.SOLVER.SCHEDULE": ("", *SCHEDULES),
    f"{_NODE}.SOLVER.ACCUMULATE_NORMALIZER": ("micro_batch", "whole_batch"),
    f"{_NODE}.EARLY_STOPPING.MODE": ("max", "min"),
    f"{_NODE}.BOX_HEAD.CLS_LOSS": ("", *CLS_LOSSES),
}
_RANGES: dict[str, Range] = {
    f"{_NODE}.SOLVER.EPS": (0.0, math.inf, "()"),
    f"{_NODE}.SOLVER.LAYER_DECAY": (0.0, 1.0, "(]"),
    f"{_NODE}.SOLVER.BACKBONE_LR_FACTOR": (0.0, math.inf, "[)"),
    f"{_NODE}.SOLVER.CLIP_NORM": (0.0, math.inf, "[)"),
    f"{_NODE}.SOLVER.FLAT_FRACTION": (0.0, 1.0, "[)"),
    f"{_NODE}.SOLVER.END_LR_FACTOR": (0.0, 1.0, "[]"),
    f"{_NODE}.EMA.DECAY": (0.0, 1.0, "[)"),
    f"{_NODE}.EMA.WARMUP": (0.0, math.inf, "[)"),
    f"{_NODE}.EARLY_STOPPING.MIN_DELTA": (0.0, math.inf, "[)"),
    f"{_NODE}.BOX_HEAD.FOCAL_GAMMA": (0.0, math.inf, "[)"),
    f"{_NODE}.BOX_HEAD.CLASS_BALANCED_BETA": (0.0, 1.0, "[)"),
}
# Type of a default -> types that go with it, and what messages call them
_TYPES: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    str: ((str,), "a text"),
    list: ((list, tuple), "a list"),
}
# Whole numbers
_LEAST = {
    f"{_NODE}.SOLVER.ACCUMULATE": 1,
    f"{_NODE}.EARLY_STOPPING.PATIENCE": 1,
    f"{_NODE}.RESUME.KEEP": 0,
    f"{_NODE}.LOG.IMAGES": 0,
    f"{_NODE}.LOG.PERIOD": 1,
}


def set_training_keys(cfg) -> list[str]:
    """Full names of the keys for the trainer that differ from their defaults."""
    defaults = _defaults()
    return [
        key for node in _NODES for key in changed_keys(cfg, f"MRCNN_EXT.{node}", defaults[node])
    ]


def _defaults() -> CfgNode:
    defaults = CfgNode()
    add_training_defaults(defaults, CfgNode)
    return defaults


def check_training(cfg, *, training: bool = False) -> None:
    """Check the values of all keys of training.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        training: it is to be trained, so that Detectron2's keys of training are checked, too, and the
            packages of writers must be installed.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    _check_types(cfg)
    check_choices(cfg, _CHOICES)
    check_ranges(cfg, _RANGES)
    check_whole_numbers(cfg, _LEAST)
    if training:
        check_solver(cfg)
    accumulate = _value(cfg, "SOLVER.ACCUMULATE")
    if accumulate > 1 and cfg.SOLVER.IMS_PER_BATCH % accumulate:
        expected = f"a divisor of SOLVER.IMS_PER_BATCH, {cfg.SOLVER.IMS_PER_BATCH}"
        raise _unexpected("SOLVER.ACCUMULATE", accumulate, expected)
    betas = list(_value(cfg, "SOLVER.BETAS"))
    if len(betas) != 2 or not all(is_number(b) and 0 <= b < 1 for b in betas):
        raise _unexpected("SOLVER.BETAS", betas, "two numbers, each at least 0 and less than 1")
    for name in _value(cfg, "LOG.WRITERS"):
        if name not in WRITERS:
            near = similar(name, WRITERS)
            hint = f" (similar: {near[0]})" if near else ""
            expected = f"some of {', '.join(WRITERS)}"
            raise _unexpected("LOG.WRITERS", list(_value(cfg, "LOG.WRITERS")), expected + hint)
    if training:
        check_writers(_value(cfg, "LOG.WRITERS"))
    if _value(cfg, "EARLY_STOPPING.METRIC") and not (
        cfg.DATASETS.TEST and cfg.TEST.EVAL_PERIOD > 0
    ):
        raise ConfigError(
            f"MRCNN_EXT.EARLY_STOPPING.METRIC is '{_value(cfg, 'EARLY_STOPPING.METRIC')}', but nothing "
            "is evaluated during training; expected DATASETS.TEST and TEST.EVAL_PERIOD to be set."
        )


def _check_types(cfg) -> None:
    """Each value is of its default's type: yaml's null passes Detectron2's own check for any key."""
    for node, defaults in _defaults().items():
        values = cfg.MRCNN_EXT[node]
        for name, default in defaults.items():
            types, expected = _TYPES.get(type(default), ((object,), ""))  # numbers have ranges
            if f"{_NODE}.{node}.{name}" not in _CHOICES and not isinstance(values[name], types):
                raise _unexpected(f"{node}.{name}", values[name], expected)
    for name in _value(cfg, "LOG.WRITERS"):
        if not isinstance(name, str):
            raise _unexpected("LOG.WRITERS", _value(cfg, "LOG.WRITERS"), "a list of texts")


def check_writers(names: Sequence[str]) -> None:
    """Check that the packages of writers are installed, without importing them.

    Args:
        names: of WRITERS.

    Raises:
        ConfigError: one is not; says how to install it.
    """
    for name in names:
        # Packages and modules have the names of writers. A mere folder, as W&B leaves one where it
        # writes, has no origin.
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"MRCNN_EXT.LOG.WRITERS has '{name}', which needs the package {name}: pip install "
                f"{name}."
            )


def _value(cfg, key: str):
    return value_of(cfg, f"MRCNN_EXT.{key}")


def _unexpected(key: str, value, expected: str) -> ConfigError:
    return unexpected(f"{_NODE}.{key}", value, expected)
