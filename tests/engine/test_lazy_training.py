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


class Clumsy(HookBase):
    """A class of the user's, with a fault of its own."""

    def __init__(self) -> None:
        raise TypeError("a fault in a program")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.max_iter", "abc", "train.max_iter is 'abc'; expected a whole number, 1 or more"),
        ("train.max_iter", None, "has no train.max_iter"),
        ("train.log_period", 0, "train.log_period is 0; expected a whole number, 1 or more"),
        ("train.eval_period", "x", "train.eval_period is 'x'; expected a whole number"),
        ("train.checkpointer.period", 0, "train.checkpointer.period is 0"),
        ("train.checkpointer.perid", 5, "train.checkpointer: got an unexpected keyword argument"),
        ("train.checkpointer", None, "has no train.checkpointer"),
        ("train.amp", None, "has no train.amp.enabled"),
        ("train.ddp", None, "train.ddp is None; expected a dict"),
        ("train.seed", None, "train.seed is None; expected a whole number"),
        ("train.seed", 2**40, "expected a whole number less than 4294967296"),
        ("train.device", 5, "train.device is 5; expected 'cuda' or 'cpu'"),
        ("train.exact_resume", "no", "train.exact_resume is 'no'; expected True or False"),
        ("train.init_checkpoint", 5, "train.init_checkpoint is 5; expected a file"),
        ("train.hooks", 5, "train.hooks is 5; expected a list of LazyCalls"),
        ("train.writers", [None], r"train.writers is \[None\]; expected a list of LazyCalls"),
        ("train.hooks", [L(Model)()], r"train.hooks\[0\] is a Model; expected a HookBase"),
        ("train.ema", {"decay": "x"}, "train.ema: '<='"),
        ("optimizer.lr", -1, "optimizer cannot be built: ValueError: Invalid learning rate: -1"),
        ("optimizer.lrr", 1, "optimizer cannot be built: TypeError: .*'lrr'"),
        ("optimizer._target_", "torch.optim.Nope", "optimizer cannot be built: ImportError"),
        ("dataloader.train.value", 1, "dataloader.train cannot be built: .*'value'"),
        ("model", None, "has no model"),
        ("train", None, "has no train"),
    ],
)
def test_a_wrong_value_is_one_error_that_names_its_node(cfg, key, value, message):
    OmegaConf.update(cfg, key, value, merge=False)
    with pytest.raises(ConfigError, match=message):
        train_lazy(cfg)


def test_a_fault_in_the_users_code_keeps_its_traceback(cfg):
    cfg.train.hooks = [L(Clumsy)()]
    with pytest.raises(TypeError, match="a fault in a program"):
        train_lazy(cfg)


def test_a_name_that_is_not_read_is_said_where_it_is_like_one(cfg, caplog):
    cfg.train.exat_resume, cfg.train.colour = True, "red"
    train_lazy(cfg)
    (line,) = [r.getMessage() for r in caplog.records if "is not read" in r.getMessage()]
    assert line.endswith(
        "train.exat_resume is not read by this command; did you mean train.exact_resume?"
    )
