# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's own keys of training: values with which it ends in a traceback, perhaps late."""

from __future__ import annotations

import math

from ..errors import ConfigError
from .check_values import unexpected, value_of
from .ranges import Range, check_choices, check_ranges, check_whole_numbers

__all__ = ["check_given", "check_sampler_name", "check_schedule_name", "check_solver"]

# What nothing works without; yaml's null passes for a value of any key.
_GIVEN = (
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "MODEL.DEVICE",
    "MODEL.META_ARCHITECTURE",
    "OUTPUT_DIR",
)
_RANGES: dict[str, Range] = {
    "SOLVER.BASE_LR": (0.0, math.inf, "[)"),
    "SOLVER.MOMENTUM": (0.0, 1.0, "[)"),
    "SOLVER.GAMMA": (0.0, math.inf, "[)"),
    "SOLVER.WARMUP_FACTOR": (0.0, math.inf, "[)"),
}
_LEAST = {
    "SOLVER.MAX_ITER": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.EVAL_PERIOD": -math.inf,  # below 1: at the end alone
    "SEED": -math.inf,  # below 0: another each time
}
_CHOICES = {"SOLVER.WARMUP_METHOD": ("linear", "constant")}
_SEEDS = 2**32  # NumPy's
# Names that Detectron2 has no registry for. Those of its main branch alone need a key that it has.
_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")
_MORE_SAMPLERS = ("WeightedTrainingSampler", "WeightedCategoryTrainingSampler")
_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR")
_MORE_SCHEDULES = ("WarmupStepWithFixedGammaLR",)


def check_given(cfg) -> None:
    """Check that what every run needs is not null.

    Raises:
        ConfigError: names the key.
    """
    for key in _GIVEN:
        if value_of(cfg, key) is None:
            raise unexpected(key, None, "a value: it is null in the config")


def check_solver(cfg) -> None:
    """Check the numbers of Detectron2's ``SOLVER``, and a few beside it, for a training.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    check_ranges(cfg, _RANGES)
    check_whole_numbers(cfg, _LEAST)
    check_choices(cfg, _CHOICES)
    if cfg.SEED >= _SEEDS:
        raise unexpected("SEED", cfg.SEED, f"a whole number less than {_SEEDS}")
    solver = cfg.SOLVER
    reference, batch = solver.REFERENCE_WORLD_SIZE, solver.IMS_PER_BATCH
    if reference and batch % reference:
        expected = f"a divisor of SOLVER.IMS_PER_BATCH, {batch}, or 0"
        raise unexpected("SOLVER.REFERENCE_WORLD_SIZE", reference, expected)
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED:
        check_choices(cfg, {"SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm")})
    schedule = cfg.MRCNN_EXT.SOLVER.SCHEDULE
    if schedule == "step" or (not schedule and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR"):
        _check_steps(solver.STEPS)


def check_sampler_name(cfg) -> None:
    """Check what Detectron2's own training loader reads: DATALOADER.SAMPLER_TRAIN, and its numbers.

    A script with a loader of its own may know other names.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    more = _MORE_SAMPLERS if "TRAIN_REPEAT_FACTOR" in cfg.DATASETS else ()
    check_choices(cfg, {"DATALOADER.SAMPLER_TRAIN": (*_SAMPLERS, *more)})
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "RepeatFactorTrainingSampler":
        check_ranges(cfg, {"DATALOADER.REPEAT_THRESHOLD": (0.0, math.inf, "[)")})
    elif name == "RandomSubsetTrainingSampler":
        check_ranges(cfg, {"DATALOADER.RANDOM_SUBSET_RATIO": (0.0, 1.0, "(]")})


def check_schedule_name(cfg) -> None:
    """Check what Detectron2's own builder of schedules reads: SOLVER.LR_SCHEDULER_NAME.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    more = _MORE_SCHEDULES if "NUM_DECAYS" in cfg.SOLVER else ()
    if not cfg.MRCNN_EXT.SOLVER.SCHEDULE:
        check_choices(cfg, {"SOLVER.LR_SCHEDULER_NAME": (*_SCHEDULES, *more)})


def _check_steps(steps) -> None:
    if isinstance(steps, (list, tuple)) and all(type(step) is int for step in steps):
        if list(steps) == sorted(set(steps)) and all(step > 0 for step in steps):
            return
        steps = list(steps)
    raise ConfigError(f"SOLVER.STEPS is {steps!r}; expected iterations that rise, from 1.")
