# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training ends after the right evaluation, as if that were its end; a resume does not go on."""

from __future__ import annotations

import logging
import math
import types

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer
from detectron2.engine import hooks as d2_hooks
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter

from mrcnn_ext.engine import EarlyStopping, EMAHook, ValidationLossHook
from mrcnn_ext.errors import ConfigError
from tests.engine.training_cases import Tiny

NAN = math.nan


def _training(tmp_path, values, *, max_iter=20, period=2, resume=False, **options):
    """Train with the evaluation's values in turn; what happened."""
    model = Tiny()
    log = types.SimpleNamespace(steps=[], evaluations=[], ends=[])
    trainer = SimpleTrainer(model, [[{}]] * 100, torch.optim.SGD(model.parameters(), lr=0.1))
    run_step = SimpleTrainer.run_step
    trainer_class = type(
        "Logged",
        (SimpleTrainer,),
        {"run_step": lambda self: (log.steps.append(self.iter), run_step(self))[1]},
    )
    trainer.__class__ = trainer_class
    checkpointer = DetectionCheckpointer(model, str(tmp_path), trainer=trainer)
    remaining = iter(values)

    def evaluate():
        log.evaluations.append(trainer.iter)
        return {"segm": {"AP": next(remaining)}}

    ema = EMAHook(decay=0.5, evaluate=False, output_dir=str(tmp_path))
    stopping = EarlyStopping(period, "segm/AP", **options)
    losses = ValidationLossHook(period, model, lambda: log.ends.append("loader") or [])
    trainer.register_hooks(
        [
            d2_hooks.IterationTimer(),
            ema,
            d2_hooks.PeriodicCheckpointer(checkpointer, 5),
            d2_hooks.EvalHook(period, evaluate),
            losses,
            stopping,
            d2_hooks.PeriodicWriter([JSONWriter(str(tmp_path / "metrics.json"))], period=3),
            d2_hooks.CallbackHook(
                after_train=lambda t: log.ends.append((t.iter, t.max_iter, t.storage.iter))
            ),
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    first = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(first, max_iter)
    log.ends = [end for end in log.ends if end != "loader"]
    return log, stopping, model


@pytest.mark.parametrize(
    ("values", "options", "last"),
    [
        ([1, 2, 2, 1, 9], {"patience": 2}, 7),  # the fourth evaluation is after step 7
        ([1, 2, 1, 3, 2, 1, 9], {"patience": 2}, 11),  # a better one in between
        ([3, 2, 2.5, 2.4, 9], {"mode": "min", "patience": 2}, 7),
        ([1, 1.4, 1.5, 1.6, 9], {"min_delta": 0.5, "patience": 2}, 5),
        ([NAN, NAN, 9], {"patience": 2}, 3),
        ([1, NAN, math.inf, 9], {"patience": 2}, 5),
    ],
)
def test_when_it_stops(tmp_path, values, options, last):
    log, stopping, model = _training(tmp_path, values, **options)
    assert log.steps == list(range(last + 1))
    assert log.evaluations == list(
        range(1, last + 1, 2)
    )  # none after training, of the same weights
    assert log.ends == [(last + 1, last + 1, last + 1)]
    assert stopping.stopped
    # Its last checkpoint is of that step, with all state in it.
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert saved["iteration"] == saved["trainer"]["iteration"] == last
    assert saved["trainer"]["hooks"]["EarlyStopping"] == stopping.state_dict()
    assert torch.equal(saved["model"]["weight"], model.weight)
    assert (tmp_path / "model_ema_final.pth").is_file()
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert f'"iteration": {last}' in lines[-1]


def test_it_does_not_stop_where_the_metric_gets_better(tmp_path):
    log, stopping, _ = _training(tmp_path, range(20), patience=1)
    assert log.steps == list(range(20))
    assert log.ends == [(20, 20, 20)]
    assert not stopping.stopped


def test_a_resume_does_not_go_on_unless_there_is_more_patience(tmp_path, caplog):
    _training(tmp_path, [1, 0, 0], patience=2)
    caplog.set_level(logging.INFO)
    log, stopping, _ = _training(tmp_path, [9], patience=2, resume=True)
    assert log.steps == []
    assert log.ends == [(6, 6, 6)]
    assert stopping.state_dict() == {
        "metric": "segm/AP",
        "mode": "max",
        "best": 1.0,
        "bad_evaluations": 2,
    }
    assert "segm/AP has not been better than 1 for 2 evaluations in a row. It does not go on" in (
        caplog.text
    )
    log, _, _ = _training(tmp_path, [0, 0, 0], patience=4, resume=True)
    assert log.steps == [6, 7, 8, 9]


def test_a_resume_in_between_counts_on(tmp_path):
    _training(tmp_path, [1, 0, 5], max_iter=5, patience=3)  # 0 came once
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    log, stopping, _ = _training(tmp_path, [0, 0, 9], patience=3, resume=True)
    assert log.steps == [5, 6, 7]
    assert stopping.bad_evaluations == 3
    other = EarlyStopping(2, "bbox/AP")
    other.load_state_dict(stopping.state_dict())  # of another metric
    assert other.best is None
    assert not other.stopped


def test_all_processes_decide_as_the_main_one(monkeypatch):
    hook = EarlyStopping(1, "segm/AP", patience=1)
    hook.trainer = types.SimpleNamespace(iter=4, max_iter=9, _hooks=[])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda data: [("", 3.0, 0), data])
    hook.after_step()
    assert hook.best == 3.0
    assert not hasattr(hook.trainer, "run_step")
    monkeypatch.setattr(comm, "all_gather", lambda data: [("", 3.0, 1), data])
    hook.after_step()
    hook.trainer.iter = 5
    hook.trainer.run_step()
    hook.trainer.after_step()
    assert (hook.trainer.iter, hook.trainer.max_iter) == (4, 5)
    monkeypatch.setattr(comm, "all_gather", lambda data: [("METRIC is what", None, 0), data])
    with pytest.raises(ConfigError, match="METRIC is what"):
        hook._decide()


def test_a_metric_that_does_not_exist(tmp_path):
    hook = EarlyStopping(1, "seg/AP")
    storage = types.SimpleNamespace(latest=lambda: {"segm/AP": (1.0, 0)})
    results = {"segm": {"AP": 1.0}}
    hook.trainer = types.SimpleNamespace(
        iter=0, max_iter=9, storage=storage, _last_eval_results=results, _hooks=[]
    )
    with pytest.raises(
        ConfigError, match=r"EARLY_STOPPING.METRIC is 'seg/AP', .* similar: segm/AP"
    ):
        hook.after_step()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "best"}, "MODE .* is 'best'; expected 'max' or 'min'"),
        ({"patience": 0}, "PATIENCE .* is 0"),
        ({"min_delta": NAN}, "MIN_DELTA .* nan"),
        ({"eval_period": 0}, "TEST.EVAL_PERIOD"),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        EarlyStopping(**{"eval_period": 1, "metric": "segm/AP", **options})
