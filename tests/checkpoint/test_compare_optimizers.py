# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""An optimizer's state in a checkpoint is of the optimizer that a training has now."""

from __future__ import annotations

import pytest
import torch

from mrcnn_ext.checkpoint.compare_optimizers import compare_optimizers, saved_optimizer
from mrcnn_ext.errors import WeightsError


def _sgd(groups=((1, 1),), **options):
    parts = [{"params": [torch.zeros(n, requires_grad=True) for n in group]} for group in groups]
    return torch.optim.SGD(parts, **{"lr": 0.1, "momentum": 0.9, **options})


def _adamw():
    return torch.optim.AdamW([torch.zeros(1, requires_grad=True) for _ in range(2)])


def test_the_same_optimizer_differs_in_nothing():
    assert compare_optimizers(_sgd().state_dict(), _sgd(lr=0.2)) == []  # the schedule's


def test_other_settings_are_named():
    saved = _sgd().state_dict()
    saved["param_groups"][0]["initial_lr"] = 0.1
    found = compare_optimizers(saved, _sgd(lr=0.2, weight_decay=1e-4))
    assert found == ["learning rate 0.1, not 0.2", "weight_decay 0, not 0.0001"]


@pytest.mark.parametrize(("saved", "now"), [(_sgd, _adamw), (_adamw, _sgd)])
def test_another_optimizer_is_an_error(saved, now):
    name = type(now()).__name__
    with pytest.raises(WeightsError, match=f"its optimizer is not {name}: it has "):
        compare_optimizers(saved().state_dict(), now())


@pytest.mark.parametrize("groups", [((1,), (1,)), ((1, 1, 1),)])
def test_other_groups_are_an_error(groups):
    with pytest.raises(WeightsError, match="its optimizer has groups of 2 parameters, this one"):
        compare_optimizers(_sgd().state_dict(), _sgd(groups))


def test_it_is_found_where_trainers_keep_it():
    state = _sgd().state_dict()
    for checkpoint in (
        {"inner_trainer": {"optimizer": state}, "trainer": {"iteration": 1}},
        {"trainer": {"_trainer": {"optimizer": state}}},
        {"optimizer": state},
    ):
        assert saved_optimizer(checkpoint) is state
    for other in ({}, [], None, {"trainer": {"optimizer": 5}}):
        assert saved_optimizer(other) is None
