# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of training: which are set, and whether their values can work."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from ..errors import ConfigError
from ..messages import similar
from .check_values import plain, unexpected, value_of
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

# Nodes whose keys the trainer follows.
_NODES = ("SOLVER", "EMA", "EARLY_STOPPING", "RESUME", "LOG")
_CHOICES = {
    "SOLVER.OPTIMIZER": ("", *OPTIMIZERS),
    "SOLVER.SCHEDULE": ("", *SCHEDULES),
    "SOLVER.ACCUMULATE_NORMALIZER": ("micro_batch", "whole_batch"),
    "EARLY_STOPPING.MODE": ("max", "min"),
    "BOX_HEAD.CLS_LOSS": ("", *CLS_LOSSES),
}
# key -> least value, greatest value, and whether each of them itself is allowed
_RANGES = {
    "SOLVER.EPS": (0.0, math.inf, "()"),
    "SOLVER.LAYER_DECAY": (0.0, 1.0, "(]"),
    "SOLVER.BACKBONE_LR_FACTOR": (0.0, math.inf, "[)"),
    "SOLVER.CLIP_NORM": (0.0, math.inf, "[)"),
    "SOLVER.FLAT_FRACTION": (0.0, 1.0, "[)"),
    "SOLVER.END_LR_FACTOR": (0.0, 1.0, "[]"),
    "EMA.DECAY": (0.0, 1.0, "[)"),
    "EMA.WARMUP": (0.0, math.inf, "[)"),
    "EARLY_STOPPING.MIN_DELTA": (0.0, math.inf, "[)"),
    "BOX_HEAD.FOCAL_GAMMA": (0.0, math.inf, "[)"),
    "BOX_HEAD.CLASS_BALANCED_BETA": (0.0, 1.0, "[)"),
}
# Whole numbers
_LEAST = {
    "SOLVER.ACCUMULATE": 1,
    "EARLY_STOPPING.PATIENCE": 1,
    "RESUME.KEEP": 0,
    "LOG.IMAGES": 0,
    "LOG.PERIOD": 1,
}


def set_training_keys(cfg) -> list[str]:
    """Full names of the keys for the trainer that differ from their defaults."""
    defaults = CfgNode()
    add_training_defaults(defaults, CfgNode)
    return [
        f"MRCNN_EXT.{node}.{name}"
        for node in _NODES
        for name, value in defaults[node].items()
        if plain(cfg.MRCNN_EXT[node][name]) != plain(value)
    ]


def check_training(cfg, *, training: bool = False) -> None:
    """Check the values of all keys of training.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        training: it is to be trained, so that the packages of writers must be installed.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    for key, known in _CHOICES.items():
        value = _value(cfg, key)
        if value not in known:
            raise _unexpected(key, value, " or ".join(map(repr, known)))
    for key, (low, high, ends) in _RANGES.items():
        value = _value(cfg, key)
        if not _is_number(value) or not _is_inside(value, low, high, ends):
            raise _unexpected(key, value, _describe_range(low, high, ends))
    for key, least in _LEAST.items():
        value = _value(cfg, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _unexpected(key, value, f"a whole number, {least} or more")
    accumulate = _value(cfg, "SOLVER.ACCUMULATE")
    if cfg.SOLVER.IMS_PER_BATCH % accumulate:
        expected = f"a divisor of SOLVER.IMS_PER_BATCH, {cfg.SOLVER.IMS_PER_BATCH}"
        raise _unexpected("SOLVER.ACCUMULATE", accumulate, expected)
    betas = list(_value(cfg, "SOLVER.BETAS"))
    if len(betas) != 2 or not all(_is_number(b) and 0 <= b < 1 for b in betas):
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


def _is_number(value) -> bool:
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _is_inside(value: float, low: float, high: float, ends: str) -> bool:
    above = value >= low if ends[0] == "[" else value > low
    return above and (value <= high if ends[1] == "]" else value < high)


def _describe_range(low: float, high: float, ends: str) -> str:
    above = f"at least {low:g}" if ends[0] == "[" else f"more than {low:g}"
    if high == math.inf:
        return f"a number, {above}"
    return f"a number, {above} and {'at most' if ends[1] == ']' else 'less than'} {high:g}"


def _unexpected(key: str, value, expected: str) -> ConfigError:
    return unexpected(f"MRCNN_EXT.{key}", value, expected)
