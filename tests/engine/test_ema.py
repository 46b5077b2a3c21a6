# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The moving average in closed form; it comes and goes without a trace, and survives a resume."""

from __future__ import annotations

import copy
import io
import types

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.events import EventStorage
from torch import nn

from mrcnn_ext.engine import BestCheckpointer
from mrcnn_ext.engine.ema import EMAHook, find_ema
from mrcnn_ext.errors import ConfigError
from tests.engine.training_cases import Tiny


def _model(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to(dtype)
    model[2].weight.requires_grad_(False)
    model[2].tied = model[0].bias  # the same parameter under two names
    return model


def _steps(model, hook, count, seed=1):
    """Random steps; the state after each."""
    generator = torch.Generator().manual_seed(seed)
    states = []
    for _ in range(count):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
            model(torch.rand(5, 3, generator=generator, dtype=model[0].weight.dtype))
        hook.update()
        states.append(copy.deepcopy(model.state_dict()))
    return states


def _state(hook):
    with hook.applied() as model:
        return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize(("decay", "warmup"), [(0.9, 0), (0.999, 10), (0.2, 10), (0.0, 0)])
def test_the_average_in_closed_form(decay, warmup):
    model = _model()
    hook = EMAHook(model, decay=decay, warmup=warmup)
    hook.start()
    states = [copy.deepcopy(model.state_dict()), *_steps(model, hook, 6)]
    decays = [min(decay, (1 + t) / (warmup + t)) if warmup else decay for t in range(6)]
    # Each state's share: what it was taken with, times what was left of it afterwards.
    shares = [1.0]
    for d in decays:
        shares = [share * d for share in shares] + [1 - d]
    assert sum(shares) == pytest.approx(1)
    for name, value in _state(hook).items():
        if value.is_floating_point():
            expected = sum(share * state[name] for share, state in zip(shares, states))
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        else:  # num_batches_tracked
            assert torch.equal(value, states[-1][name])


def test_the_weights_come_back_bit_for_bit():
    model = _model(torch.float32)
    hook = EMAHook(model, decay=0.9)
    hook.start()
    _steps(model, hook, 3)
    model[0].weight.data[0, 0] = float("nan")
    before, places = copy.deepcopy(model.state_dict()), [p.data_ptr() for p in model.parameters()]
    with pytest.raises(KeyError), hook.applied() as inside:  # noqa: PT012
        assert inside is model
        assert torch.is_grad_enabled()
        assert not torch.equal(model[0].bias, before["0.bias"])
        with hook.applied():  # within itself
            pass
        assert not torch.equal(model[0].bias, before["0.bias"])
        raise KeyError
    for name, value in model.state_dict().items():
        assert torch.equal(
            value.view(-1).view(torch.uint8), before[name].view(-1).view(torch.uint8)
        )
    assert places == [p.data_ptr() for p in model.parameters()]


def test_half_precision_weights_are_averaged_in_float32():
    model = nn.Linear(1, 1).bfloat16()
    hook = EMAHook(model, decay=0.999, warmup=0)
    nn.init.constant_(model.weight, 1.0)
    hook.start()
    nn.init.constant_(model.weight, 2.0)
    for _ in range(100):
        hook.update()
    average = hook.state_dict()["average"]["weight"]
    assert average.dtype == torch.float32
    assert float(average) == pytest.approx(2 - 0.999**100, rel=1e-5)
    with hook.applied():
        assert model.weight.dtype == torch.bfloat16


def test_a_resume_goes_on_bit_for_bit():
    model = _model()
    whole = EMAHook(model, decay=0.9)
    whole.start()
    _steps(model, whole, 3, seed=1)
    file = io.BytesIO()
    torch.save({"hook": whole.state_dict(), "model": model.state_dict()}, file)
    _steps(model, whole, 3, seed=2)

    file.seek(0)
    state = torch.load(file, weights_only=True)  # as fvcore loads
    other = _model()
    resumed = EMAHook(nn.DataParallel(other), decay=0.9)  # a wrapper with .module
    resumed.load_state_dict(state["hook"])  # before weights are known to be there
    other.load_state_dict(state["model"])
    resumed.start()
    _steps(other, resumed, 3, seed=2)
    expected = _state(whole)
    assert all(torch.equal(value, expected[name]) for name, value in _state(resumed).items())


def test_another_models_average_is_not_taken(caplog):
    hook = EMAHook(nn.Linear(2, 2))
    other = EMAHook(nn.Linear(2, 3))
    other.start()
    hook.load_state_dict(other.state_dict())
    hook.start()
    assert "one of another model" in caplog.text
    assert hook.updates == 0


def test_results_of_both():
    model = nn.Linear(1, 1, bias=False)
    hook = EMAHook(model, decay=0.5, warmup=0)
    nn.init.constant_(model.weight, 1.0)
    hook.start()
    nn.init.constant_(model.weight, 2.0)
    hook.update()
    order = []

    def evaluate():
        order.append(torch.rand(1).item())
        return {"segm": {"AP": model.weight.item()}}

    torch.manual_seed(5)
    results = hook.evaluate(evaluate)
    assert flatten_results_dict(results) == {"segm/AP": 2.0, "ema/segm/AP": 1.5}
    assert next(iter(results)) == "segm"
    torch.manual_seed(5)
    assert torch.rand(1).item() == order[1]  # the training's generator knows nothing of it
    assert hook.evaluate(lambda: None) == {}


def test_in_a_trainer_that_evaluates(tmp_path):
    """With the hook alone, as in a LazyConfig; steps and checkpoints are those without it."""

    def train(*hooks):
        model = Tiny()
        trainer = SimpleTrainer(model, [[{}]] * 9, torch.optim.SGD(model.parameters(), lr=0.1))
        results = []

        def evaluate():
            results.append(model.weight.item())
            return {"w": {"value": results[-1]}}

        trainer.register_hooks([*hooks, EvalHook(2, evaluate)])
        trainer.train(0, 6)
        return results, trainer

    alone, _ = train()
    results, trainer = train(EMAHook(decay=0.5, warmup=0))
    assert results[1::2] == alone  # the average first
    assert results[0::2] != alone
    latest = trainer.storage.latest()
    assert (latest["ema/w/value"][0], latest["w/value"][0]) == tuple(results[-2:])
    results, _ = train(EMAHook(evaluate=False))
    assert results == alone


def _trainer(hook, tmp_path, iteration=4, max_iter=4):
    trainer = types.SimpleNamespace(iter=iteration, max_iter=max_iter, start_iter=0, _hooks=[hook])
    hook.trainer = trainer
    return trainer


def test_the_last_weights_are_written(tmp_path):
    model = _model()
    hook = EMAHook(model, decay=0.5, output_dir=str(tmp_path))
    trainer = _trainer(hook, tmp_path, iteration=2)
    hook.before_train()
    _steps(model, hook, 2)
    hook.after_train()  # an error ended training
    assert not list(tmp_path.iterdir())
    trainer.iter = 4
    hook.after_train()
    assert [file.name for file in tmp_path.iterdir()] == ["model_ema_final.pth"]
    loaded = torch.load(tmp_path / "model_ema_final.pth", weights_only=True)
    expected = _state(hook)
    assert loaded["model"].keys() == model.state_dict().keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded["model"].items())


def test_the_best_checkpoint_by_a_metric_of_the_average(tmp_path):
    model = _model()
    ema = EMAHook(model, decay=0.5)
    ema.start()
    _steps(model, ema, 2)
    saved = []
    checkpointer = types.SimpleNamespace(
        save_dir=str(tmp_path), save=lambda name, **kwargs: saved.append(name)
    )
    best = BestCheckpointer(1, checkpointer, "ema/segm/AP")
    trainer = _trainer(ema, tmp_path, iteration=0, max_iter=9)
    best.trainer = trainer
    with EventStorage() as trainer.storage:
        trainer.storage.put_scalar("ema/segm/AP", 3.0, smoothing_hint=False)
        best.before_train()
        best.after_step()
    assert saved == []  # no checkpoint that training could go on from
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["model_best.json", "model_best.pth"]
    loaded = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert loaded["iteration"] == 0
    expected = _state(ema)
    assert all(torch.equal(value, expected[name]) for name, value in loaded["model"].items())
    assert find_ema(trainer) is ema
    trainer._hooks.clear()
    with pytest.raises(ConfigError, match=r"'ema/segm/AP', but .* no moving average"):
        best.before_train()


def test_what_is_refused():
    for decay, warmup in ((1.0, 0), (-0.1, 0), (0.9, -1)):
        with pytest.raises(ConfigError, match=f"decay {decay} .* warmup {warmup}"):
            EMAHook(nn.Linear(1, 1), decay=decay, warmup=warmup)
