# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training from a LazyConfig: what is asked of it, and what it puts together."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.engine import HookBase
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils.events import EventWriter, get_event_storage
from fvcore.common.param_scheduler import LinearParamScheduler
from omegaconf import OmegaConf
from torch import nn

from mrcnn_ext.engine.lazy_training import evaluate_lazy, train_lazy
from mrcnn_ext.errors import ConfigError

LOG: list = []


class Model(nn.Module):
    """One weight, which is drawn towards the batch's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)

    def forward(self, batch: list) -> dict:
        return {"loss": sum((self.layer.weight - number) ** 2 for number in batch).mean()}


def numbers(values: list) -> list:
    """A loader of batches."""
    return [list(values)] * 100


class Note(HookBase):
    """Notes every step."""

    def after_step(self) -> None:
        LOG.append(("hook", self.trainer.iter))


class Writer(EventWriter):
    """Notes what is written."""

    def write(self) -> None:
        LOG.append(("write", get_event_storage().iter))


@pytest.fixture
def cfg(tmp_path):
    LOG.clear()
    torch.manual_seed(0)
    train = {
        "output_dir": str(tmp_path),
        "init_checkpoint": "",
        "max_iter": 4,
        "amp": {"enabled": False},
        "ddp": {"broadcast_buffers": False},
        "checkpointer": {"period": 2, "max_to_keep": 5},
        "eval_period": 2,
        "log_period": 2,
        "device": "cpu",
    }
    made = OmegaConf.create(
        {
            "model": L(Model)(),
            "dataloader": {"train": L(numbers)(values=[1.0, 2.0])},
            "optimizer": L(torch.optim.SGD)(params=L(get_default_optimizer_params)(), lr=0.1),
            "lr_multiplier": L(WarmupParamScheduler)(
                scheduler=L(LinearParamScheduler)(start_value=1.0, end_value=1.0),
                warmup_factor=1.0,
                warmup_length=0.0,
                warmup_method="linear",
            ),
            "train": train,
        },
        flags={"allow_objects": True},
    )
    made.train.writers = [L(Writer)()]
    return made


def test_it_trains_goes_on_and_keeps_the_order_of_hooks(cfg, tmp_path):
    cfg.train.hooks = [L(Note)()]
    cfg.train.ema = {"decay": 0.5, "warmup": 0}
    cfg.train.accumulate = {"steps": 2}
    train_lazy(copy.deepcopy(cfg))
    assert (tmp_path / "model_final.pth").is_file()
    assert LOG[:3] == [("hook", 0), ("hook", 1), ("write", 1)]
    states = [torch.load(tmp_path / f"model_{name}.pth") for name in ("final", "ema_final")]
    own, average = (state["model"]["layer.weight"] for state in states)
    assert (own - 1.5).abs() < (average - 1.5).abs()  # which lags behind
    assert states[0]["iteration"] == 3
    LOG.clear()
    cfg.train.max_iter = 6
    train_lazy(cfg, resume=True)
    assert [step for kind, step in LOG if kind == "hook"] == [4, 5]


def test_steps_are_those_of_sgd(cfg, tmp_path):
    cfg.train.max_iter = 1
    torch.manual_seed(0)
    weight = Model().layer.weight.detach().clone()
    torch.manual_seed(0)
    train_lazy(cfg)
    gradient = 2 * (weight - 1.0) + 2 * (weight - 2.0)
    trained = torch.load(tmp_path / "model_final.pth")["model"]["layer.weight"]
    torch.testing.assert_close(trained, weight - 0.1 * gradient)


@pytest.mark.parametrize(
    ("node", "value", "message"),
    [
        ("lr_multiplier", None, "the LazyConfig has no lr_multiplier"),
        ("train.log_period", None, r"the LazyConfig has no train\.log_period"),
        ("train.amp.enabled", True, r"train\.amp\.enabled is True, but train\.device is 'cpu'"),
        ("train.ema", {"no": 1}, r"train\.ema: got an unexpected keyword argument 'no'"),
        (
            "train.early_stopping",
            {},
            r"train\.early_stopping: missing a required argument: 'metric'",
        ),
        ("train.accumulate", 2, r"train\.accumulate is 2; expected a dict of arguments"),
        ("train.exact_resume", True, r"RESUME\.EXACT is True, but .*list"),
        ("train.init_checkpoint", "no.pth", r"no\.pth: there is no such file"),
    ],
)
def test_mistakes_name_the_node(cfg, node, value, message):
    if value is None:
        parent, _, name = node.rpartition(".")
        del (OmegaConf.select(cfg, parent) if parent else cfg)[name]
    else:
        OmegaConf.update(cfg, node, value, force_add=True)
    with pytest.raises(ConfigError, match=message):
        train_lazy(cfg)
    assert LOG == []


def test_without_evaluator_there_are_no_results(cfg, tmp_path):
    torch.save({"model": Model().state_dict()}, tmp_path / "start.pth")
    cfg.train.init_checkpoint = str(tmp_path / "start.pth")
    assert evaluate_lazy(cfg) is None
