# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Schedules in closed form, with Detectron2's warm-up, as an optimizer gets them."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.solver import build_lr_scheduler as stock_scheduler
from torch import nn

from mrcnn_ext.config.load import default_config
from mrcnn_ext.engine.schedule import (
    FlatCosineParamScheduler,
    build_lr_scheduler,
    schedule_keys_set,
)
from mrcnn_ext.errors import ConfigError

BASE, ITERATIONS = 0.5, 40


@pytest.fixture
def cfg():
    cfg = default_config()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.GAMMA = ITERATIONS, (20, 30), 0.1
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 0, 0.01
    return cfg


def _rates(cfg, build):
    optimizer = torch.optim.SGD(
        [
            {"params": [nn.Parameter(torch.zeros(1))]},
            {"params": [nn.Parameter(torch.ones(1))], "lr": 2},
        ],
        lr=BASE,
    )
    scheduler, rates = build(cfg, optimizer), []
    for _ in range(ITERATIONS):
        rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[1]["lr"] == pytest.approx(4 * rates[-1])  # one factor for all
        optimizer.step()
        scheduler.step()  # the last time at the end itself, as Detectron2's hook does
    return rates


def _cosine(x, end):
    return end + (1 - end) * (1 + math.cos(math.pi * x)) / 2


def test_step_is_detectron2s(cfg):
    cfg.SOLVER.WARMUP_ITERS = 5
    cfg.MRCNN_EXT.SOLVER.SCHEDULE = "step"
    assert _rates(cfg, build_lr_scheduler) == _rates(cfg, stock_scheduler)


def test_cosine(cfg):
    cfg.MRCNN_EXT.SOLVER.SCHEDULE, cfg.MRCNN_EXT.SOLVER.END_LR_FACTOR = "cosine", 0.1
    expected = [BASE * _cosine(i / ITERATIONS, 0.1) for i in range(ITERATIONS)]
    assert _rates(cfg, build_lr_scheduler) == pytest.approx(expected)


def test_flat_cosine_after_warm_up(cfg):
    cfg.SOLVER.WARMUP_ITERS = 4
    keys = cfg.MRCNN_EXT.SOLVER
    keys.SCHEDULE, keys.FLAT_FRACTION, keys.END_LR_FACTOR = "flat_cosine", 0.25, 0.05
    warm = [BASE * (0.01 + (1 - 0.01) * i / 4) for i in range(4)]
    flat = [BASE] * 6
    fall = [BASE * _cosine((i - 10) / 30, 0.05) for i in range(10, ITERATIONS)]
    assert _rates(cfg, build_lr_scheduler) == pytest.approx(warm + flat + fall)


def test_the_end_and_what_is_refused(cfg):
    assert FlatCosineParamScheduler(0.5, 0.25)(1.0) == pytest.approx(0.25)
    assert FlatCosineParamScheduler(0.0, 0.0)(0.5) == pytest.approx(0.5)
    for flat, end in ((1.0, 0.0), (-0.1, 0.0), (0.5, 1.5)):
        with pytest.raises(ConfigError, match=f"flat {flat} and end {end}"):
            FlatCosineParamScheduler(flat, end)
    cfg.MRCNN_EXT.SOLVER.SCHEDULE, cfg.SOLVER.STEPS = "step", (30, 20)
    with pytest.raises(ConfigError, match=r"SOLVER.STEPS is \[30, 20\]"):
        _rates(cfg, build_lr_scheduler)
    cfg.SOLVER.STEPS = (20, 400)  # beyond the end: left out
    assert _rates(cfg, build_lr_scheduler)[-1] == pytest.approx(BASE * 0.1)


def test_keys(cfg):
    assert not schedule_keys_set(cfg)
    cfg.MRCNN_EXT.SOLVER.SCHEDULE = "cosine"
    assert schedule_keys_set(cfg)
