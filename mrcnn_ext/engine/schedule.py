# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Schedules of the learning rate by config, within Detectron2's warm-up."""

from __future__ import annotations

from detectron2.solver import LRMultiplier, WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer

from ..config.check_training import set_training_keys
from ..errors import ConfigError

__all__ = ["FlatCosineParamScheduler", "build_lr_scheduler", "schedule_keys_set"]


def schedule_keys_set(cfg) -> bool:
    """Whether a key of ``cfg`` asks for another schedule than Detectron2's builder makes."""
    return "MRCNN_EXT.SOLVER.SCHEDULE" in set_training_keys(cfg)


class FlatCosineParamScheduler(ParamScheduler):
    """1 for a fraction of training, then half a cosine down to ``end``.

    Used by RTMDet (Lyu et al. 2022, table 2), with a fraction of 0.5 and an end of 0.05.
    """

    def __init__(self, flat: float = 0.5, end: float = 0.0) -> None:
        """
        Args:
            flat: fraction of training, in [0, 1), before the value falls; 0 is a cosine.
            end: last value, in [0, 1].

        Raises:
            ConfigError: an argument is out of range.
        """
        if not (0 <= flat < 1 and 0 <= end <= 1):
            raise ConfigError(
                f"a flat-cosine schedule has flat {flat} and end {end}; expected flat at least 0 and "
                "less than 1, and end 0 to 1."
            )
        self.flat = flat
        self._fall = CosineParamScheduler(1.0, end)

    def __call__(self, where: float) -> float:
        """The value at ``where``, in [0, 1)."""
        if where < self.flat:
            return 1.0
        return self._fall((where - self.flat) / (1 - self.flat))


def build_lr_scheduler(cfg, optimizer: Optimizer) -> LRMultiplier:
    """The schedule that ``MRCNN_EXT.SOLVER.SCHEDULE`` names, after Detectron2's warm-up.

    Warm-up ends at the value that the schedule has there, and takes none of its length away:
    ``SOLVER.STEPS`` and the end of training are where they would be without.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        optimizer: the rates of its groups are multiplied, each by the same factor.

    Raises:
        ConfigError: SOLVER.STEPS do not rise, or an unknown name.
    """
    solver = cfg.SOLVER
    length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    # Detectron2's main branch could stretch the schedule over the rest (RESCALE_INTERVAL).
    options = {"rescale_interval": True} if solver.get("RESCALE_INTERVAL", False) else {}
    schedule = WarmupParamScheduler(
        _schedule(cfg), solver.WARMUP_FACTOR, length, solver.WARMUP_METHOD, **options
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


def _schedule(cfg) -> ParamScheduler:
    keys, solver = cfg.MRCNN_EXT.SOLVER, cfg.SOLVER
    if keys.SCHEDULE == "step":
        steps = list(solver.STEPS)
        if steps != sorted(set(steps)) or any(step <= 0 for step in steps):
            raise ConfigError(f"SOLVER.STEPS is {steps}; expected iterations that rise, from 1.")
        steps = [step for step in steps if step < solver.MAX_ITER]
        values = [solver.GAMMA**k for k in range(len(steps) + 1)]
        return MultiStepParamScheduler(values, num_updates=solver.MAX_ITER, milestones=steps)
    if keys.SCHEDULE == "cosine":
        return CosineParamScheduler(1.0, keys.END_LR_FACTOR)
    if keys.SCHEDULE == "flat_cosine":
        return FlatCosineParamScheduler(keys.FLAT_FRACTION, keys.END_LR_FACTOR)
    raise ConfigError(
        f"MRCNN_EXT.SOLVER.SCHEDULE is {keys.SCHEDULE!r}; expected 'step', 'cosine' or 'flat_cosine'."
    )
