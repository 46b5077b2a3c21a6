# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Switching modules between training and eval mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrcnn_ext.modes import eval_layers, losses_in_eval, restore_modes


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.BatchNorm2d(1)))
        self.head = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1))
        self.head[2].eval()  # as a frozen layer may be

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def _modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def test_modes_are_restored_module_by_module_after_an_error_too():
    model = Model()
    before = _modes(model)

    def fail() -> None:
        with restore_modes(model):
            model.eval()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _modes(model) == before
    assert len(set(before.values())) == 2


def test_layers_are_in_eval_mode_and_what_has_losses_is_not():
    model = Model()
    eval_layers(model)
    modes = _modes(model)
    assert [name for name, training in modes.items() if training] == ["", "head"]
    model.train()
    eval_layers(model, skip=lambda name: name.startswith("head"))
    assert not any(module.training for module in model.backbone.modules())
    assert all(module.training for module in model.head.modules())


def test_losses_in_eval_changes_neither_modes_nor_buffers():
    model = Model()
    model.eval()
    x = torch.randn(2, 1, 4, 4)
    expected = model(x)
    with losses_in_eval(model):
        assert model.training
        assert model.head.training
        assert torch.equal(model(x), expected)
        model.head[1].running_mean += 1
    assert not any(_modes(model).values())
    assert torch.equal(model(x), expected)
