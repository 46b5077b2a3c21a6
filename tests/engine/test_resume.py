# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Exact resume: the loader's batches, random numbers, checkpoints and signals."""

from __future__ import annotations

import atexit
import itertools
import json
import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.engine import DefaultTrainer, HookBase

from mrcnn_ext.checkpoint.training_checkpointer import TrainingCheckpointer
from mrcnn_ext.engine import TrainerMixin
from mrcnn_ext.engine.resume import ExactLoader, make_exact, seed_step
from mrcnn_ext.engine.resume.loader import batches_of
from mrcnn_ext.engine.resume.seeds import sample_random_numbers
from mrcnn_ext.errors import ConfigError, DataError, WeightsError
from tests.engine.training_cases import LossTrainer, linear_cfg


class Exact(TrainerMixin, LossTrainer):
    pass


# ---- loader --------------------------------------------------------------------------------------

ENTRIES = [{"index": i, "width": 10 + (i * 7) % 5, "height": 12} for i in range(9)]


def _mapper(entry):
    numbers = (random.random(), float(np.random.rand()), float(torch.rand(())))
    return {**entry, "numbers": numbers}


def _stock(sampler, batch_size=2, grouped=True, workers=0):
    return build_detection_train_loader(
        list(ENTRIES), mapper=_mapper, sampler=sampler, total_batch_size=batch_size,
        aspect_ratio_grouping=grouped, num_workers=workers,
    )  # fmt: skip


def _indices(batches, count=25):
    return [[item["index"] for item in batch] for batch in itertools.islice(iter(batches), count)]


_held = []  # as trainer and hooks hold a loader's iterator until the process ends


def _hold_batches():
    _held.append(iter(make_exact(_stock(TrainingSampler(9, seed=1), workers=1), seed=11)))
    next(_held[0])
    assert multiprocessing.active_children()


def test_workers_end_with_a_process_that_still_holds_their_batches(monkeypatch):
    """They outlive the SIGTERM that multiprocessing sends them before it waits for their end."""
    process = multiprocessing.get_context("fork").Process(target=_hold_batches)
    process.start()
    process.join(30)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()
    at_exit = []
    monkeypatch.setattr(atexit, "register", lambda *call: at_exit.append(call))
    before = set(multiprocessing.active_children())
    try:
        _hold_batches()
        for function, *arguments in at_exit:
            function(*arguments)
        assert set(multiprocessing.active_children()) <= before
    finally:
        _held.clear()


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_are_those_of_detectron2_with_the_same_seed(grouped, batch_size):
    exact = make_exact(_stock(TrainingSampler(9, seed=1), batch_size, grouped), seed=11)
    stock = _stock(TrainingSampler(9, seed=11), batch_size, grouped)
    assert _indices(exact) == _indices(stock)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda: TrainingSampler(9),
        lambda: RandomSubsetTrainingSampler(9, 0.6),
        lambda: RepeatFactorTrainingSampler(torch.linspace(1, 2.6, 9)),
    ],
)
@pytest.mark.parametrize("grouped", [True, False])
def test_from_any_start_come_the_same_samples(sampler, grouped):
    whole = make_exact(_stock(sampler(), 2, grouped), seed=4)
    batches = list(itertools.islice(whole, 20))
    for start in (1, 2, 7, 15):
        torch.rand(3), np.random.rand(2), random.random()  # states do not matter
        later = make_exact(_stock(sampler(), 2, grouped), seed=4)
        later.start = start
        assert list(itertools.islice(later, 20 - start)) == batches[start:]
        assert [place[1] for place in later.batch(start)] == [b["index"] for b in batches[start]]


def test_workers_change_nothing():
    alone = list(itertools.islice(make_exact(_stock(TrainingSampler(9)), seed=4), 8))
    torch.manual_seed(77)
    state = torch.random.get_rng_state()
    loader = make_exact(_stock(TrainingSampler(9), workers=2), seed=4)
    loader.start = 3
    assert list(itertools.islice(loader, 5)) == alone[3:]
    assert torch.equal(torch.random.get_rng_state(), state)  # the step's own random numbers


def test_nothing_is_read_before_the_first_batch():
    def refuse(_entry):
        raise AssertionError

    loader = ExactLoader(ENTRIES, TrainingSampler(9), 2, collate_fn=refuse, seed=0)
    iterator = iter(loader)
    loader.start = 5
    with pytest.raises(AssertionError):
        next(iterator)


def test_a_sample_that_the_mapper_refuses_is_replaced_by_the_same_one_each_time():
    def picky(entry):
        return entry if entry["index"] % 3 == 0 else None

    def loader():
        return make_exact(
            build_detection_train_loader(
                list(ENTRIES), mapper=picky, sampler=TrainingSampler(9), total_batch_size=2
            ),
            seed=3,
        )

    first = _indices(loader(), 12)
    assert {i for batch in first for i in batch} == {0, 3, 6}
    later = loader()
    later.start = 6
    assert _indices(later, 6) == first[6:]
    never = make_exact(
        build_detection_train_loader(
            list(ENTRIES), mapper=lambda e: None, sampler=TrainingSampler(9), total_batch_size=2
        )
    )
    with pytest.raises(DataError, match="returned None for 100 samples"):
        next(iter(never))


def test_buckets_keep_wide_and_high_images_apart():
    wide = [True, False, True, True, False, False]
    found = list(batches_of([0, 1, 2, 3, 4, 5], 2, wide))
    assert found == [[(0, 0), (2, 2)], [(1, 1), (4, 4)]]


def test_another_kind_of_loader_is_an_error():
    with pytest.raises(ConfigError, match=r"RESUME\.EXACT is True, but .* returns builtins\.list"):
        make_exact([[1], [2]])


# ---- random numbers ------------------------------------------------------------------------------


def _draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_step_has_its_random_numbers_whatever_came_before():
    seed_step(1, 0, 7)
    first = _draw()
    _draw()
    seed_step(1, 0, 7)
    assert _draw() == first
    for other in ((2, 0, 7), (1, 1, 7), (1, 0, 8)):
        seed_step(*other)
        assert all(a != b for a, b in zip(_draw(), first))


def test_a_sample_leaves_the_states_as_they_were():
    seed_step(1, 0, 7)
    expected = _draw()
    seed_step(1, 0, 7)
    with sample_random_numbers(1, 0, 7):
        inside = _draw()
    assert _draw() == expected
    assert all(a != b for a, b in zip(inside, expected))  # step 7 is not sample 7


# ---- training ------------------------------------------------------------------------------------


class _Killed(BaseException):
    pass


class _Kill(HookBase):
    """Ends the process, as far as a training in this one can tell."""

    def __init__(self, step: int) -> None:
        self._step = step

    def before_step(self) -> None:
        if self.trainer.iter == self._step:
            raise _Killed


def _train(cfg, kill_before=None, trainer_class=Exact):
    torch.manual_seed(0)  # of the initial weights
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=True)
    if kill_before is not None:
        trainer.register_hooks([_Kill(kill_before)])
        with pytest.raises(_Killed):
            trainer.train()
    else:
        trainer.train()
    return trainer


def _metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if "time" not in k and k != "eta_seconds"} for line in lines
    ]


@pytest.mark.parametrize("seed", [5, -1])
def test_all_is_as_in_an_uninterrupted_run(tmp_path, seed):
    def cfg(name):
        made = linear_cfg(tmp_path / name, RESUME__EXACT=True, LOG__PERIOD=1)
        made.SEED = seed
        return made

    np.random.seed(3)  # of a drawn seed
    whole = _train(cfg("whole"))
    np.random.seed(3)
    first = _train(cfg("killed"), kill_before=3)
    np.random.seed(8)
    second = _train(cfg("killed"), kill_before=5)
    third = _train(cfg("killed"))
    assert (second.start_iter, third.start_iter) == (2, 4)
    assert second.losses[0] == first.losses[2]  # step 2, taken twice
    assert [*first.losses[:2], *second.losses[:2], *third.losses] == whole.losses
    assert _metrics(tmp_path / "killed") == _metrics(tmp_path / "whole")
    files = [torch.load(tmp_path / n / "model_final.pth") for n in ("whole", "killed")]
    assert all(torch.equal(v, files[1]["model"][k]) for k, v in files[0]["model"].items())


def test_without_the_key_losses_are_others(tmp_path):
    """That the test above can fail."""
    whole = _train(linear_cfg(tmp_path / "whole", LOG__PERIOD=1))
    _train(linear_cfg(tmp_path / "killed", LOG__PERIOD=1), kill_before=4)
    assert _train(linear_cfg(tmp_path / "killed", LOG__PERIOD=1)).losses != whole.losses[4:]


def test_another_batch_size_and_a_checkpoint_without_the_key_are_said(tmp_path, caplog):
    _train(linear_cfg(tmp_path, RESUME__KEEP=2), kill_before=3)
    _train(linear_cfg(tmp_path, RESUME__EXACT=True), kill_before=5)
    assert "was written without MRCNN_EXT.RESUME.EXACT" in caplog.text
    cfg = linear_cfg(tmp_path, RESUME__EXACT=True)
    cfg.SOLVER.IMS_PER_BATCH = 3
    _train(cfg)
    assert "Step 3 has other images now than it had" in caplog.text


def test_optimizer_and_schedule_come_back(tmp_path):
    cfg = linear_cfg(tmp_path, RESUME__EXACT=True)
    first = _train(cfg, kill_before=4)
    second = Exact(cfg)
    second.resume_or_load(resume=True)
    assert second.start_iter == 4
    momenta = [t._trainer.optimizer.state_dict()["state"] for t in (first, second)]
    assert momenta[0].keys() == momenta[1].keys()
    assert all(
        torch.equal(momenta[0][k]["momentum_buffer"], momenta[1][k]["momentum_buffer"])
        for k in momenta[0]
    )
    assert second.scheduler.last_epoch == first.scheduler.last_epoch


# ---- checkpoints ---------------------------------------------------------------------------------


def _damage(file):
    file.write_bytes(file.read_bytes()[:-100])


def test_a_damaged_checkpoint_is_passed_over_with_both_names(tmp_path, caplog):
    cfg = linear_cfg(tmp_path, RESUME__EXACT=True)
    _train(cfg, kill_before=5)
    _damage(tmp_path / "model_0000003.pth")
    caplog.clear()
    trainer = _train(cfg)
    assert trainer.start_iter == 2
    assert "model_0000003.pth is damaged" in caplog.text
    assert "going on from the checkpoint before" in caplog.text
    assert "model_0000001.pth" in caplog.text


def test_nothing_starts_over_by_itself_where_all_checkpoints_are_damaged(tmp_path):
    cfg = linear_cfg(tmp_path, RESUME__EXACT=True)
    _train(cfg, kill_before=3)
    _damage(tmp_path / "model_0000001.pth")
    trainer = Exact(cfg)
    with pytest.raises(
        WeightsError, match=r"cannot go on from any checkpoint .*model_0000001.pth is"
    ):
        trainer.resume_or_load(resume=True)


def test_a_full_disk_is_one_error_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    cfg = linear_cfg(tmp_path, RESUME__EXACT=True)
    _train(cfg, kill_before=3)
    before = (tmp_path / "model_0000001.pth").read_bytes()

    def full(_content, file):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    trainer = Exact(cfg)
    trainer.resume_or_load(resume=True)
    with pytest.raises(DataError) as error:
        trainer.train()
    text = str(error.value)
    assert "model_0000003.pth cannot be written" in text
    assert "MB are free" in text
    assert "model_0000001.pth is whole" in text
    assert sorted(file.name for file in tmp_path.glob("*model_*")) == ["model_0000001.pth"]
    assert (tmp_path / "model_0000001.pth").read_bytes() == before


def test_a_worker_that_was_killed_meanwhile_is_no_full_disk(tmp_path, monkeypatch):
    def killed(_content, _file):
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")

    monkeypatch.setattr(torch, "save", killed)
    checkpointer = TrainingCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        checkpointer.save("model_0000001", iteration=1)


def test_only_the_newest_are_kept(tmp_path):
    _train(linear_cfg(tmp_path, RESUME__KEEP=2))
    names = sorted(file.name for file in tmp_path.glob("*.pth"))
    assert names == ["model_0000003.pth", "model_0000005.pth", "model_final.pth"]


def test_an_earlier_training_of_more_steps_costs_no_checkpoint(tmp_path, caplog):
    """Its later ones would be "the newest"."""
    _train(linear_cfg(tmp_path, RESUME__KEEP=2))
    cfg = linear_cfg(tmp_path, RESUME__KEEP=1)
    trainer = Exact(cfg)
    trainer.resume_or_load(resume=False)
    assert "has checkpoints of an earlier training (model_0000003.pth" in caplog.text
    trainer.register_hooks([_Kill(3)])
    with pytest.raises(_Killed):
        trainer.train()
    names = sorted(file.name for file in tmp_path.glob("model_0*.pth"))
    assert names == ["model_0000001.pth", "model_0000003.pth", "model_0000005.pth"]
    assert _train(cfg, kill_before=3).start_iter == 2


def test_weights_that_are_nan_take_the_place_of_no_checkpoint(tmp_path):
    model = torch.nn.Linear(1, 1)
    checkpointer = TrainingCheckpointer(model, str(tmp_path), keep=1)
    checkpointer.save("model_0000003", iteration=3)
    torch.nn.init.constant_(model.weight, float("nan"))
    checkpointer.save("model_0000005", iteration=5)
    assert (tmp_path / "model_0000003.pth").is_file()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SEED", 77, "The seed (SEED, train.seed) is 77, but training goes on with"),
        ("SOLVER.BASE_LR", 0.5, "learning rate 0.1, not 0.5"),
        ("SOLVER.MAX_ITER", 4, "is of step 3, the last one, or beyond"),
    ],
)
def test_keys_that_a_resumed_training_does_not_follow_are_named(
    tmp_path, caplog, key, value, message
):
    _train(linear_cfg(tmp_path, RESUME__EXACT=True, LOG__PERIOD=1), kill_before=4)
    cfg = linear_cfg(tmp_path, RESUME__EXACT=True, LOG__PERIOD=1)
    cfg.merge_from_list([key, value])
    _train(cfg)
    assert message in caplog.text
    lines = [line["iteration"] for line in _metrics(tmp_path)]
    assert lines == list(range(cfg.SOLVER.MAX_ITER))


def test_another_optimizer_is_an_error_before_the_first_step(tmp_path):
    _train(linear_cfg(tmp_path, RESUME__EXACT=True), kill_before=3)
    trainer = Exact(linear_cfg(tmp_path, RESUME__EXACT=True, SOLVER__OPTIMIZER="AdamW"))
    with pytest.raises(WeightsError, match=r"model_0000001.pth: its optimizer is not AdamW"):
        trainer.resume_or_load(resume=True)


def test_the_log_of_an_earlier_training_stays(tmp_path):
    cfg = linear_cfg(tmp_path, RESUME__EXACT=True, LOG__PERIOD=1)
    _train(cfg, kill_before=5)
    file = tmp_path / "metrics.json"
    earlier = [json.dumps({"iteration": i, "total_loss": 1.0}) for i in range(9)] + ["no json"]
    file.write_text("".join(f"{line}\n" for line in earlier) + file.read_text())
    _train(cfg)
    found = file.read_text().splitlines()
    assert found[:10] == earlier
    assert [json.loads(line)["iteration"] for line in found[10:]] == list(range(6))


def test_the_best_checkpoint_is_not_the_last(tmp_path):
    checkpointer = TrainingCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    assert not checkpointer.has_checkpoint()
    checkpointer.save("model_0000003", iteration=3)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000003.pth")
    checkpointer.save("model_best", iteration=1)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000003.pth")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


# ---- evaluation ----------------------------------------------------------------------------------


class _Evaluated(Exact):
    tests = 0

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        cls.tests += 1
        if cls.tests == cls.kill_in:
            raise _Killed
        return {"segm": {"AP": next(model.parameters()).sum().item()}}


def test_an_evaluation_that_was_missed_comes_after_the_resume(tmp_path):
    def run(name, kill_in):
        cfg = linear_cfg(tmp_path / name, RESUME__EXACT=True, LOG__PERIOD=1)
        cfg.TEST.EVAL_PERIOD = 2
        cfg.MRCNN_EXT.EVALUATION.ENABLED = True
        cfg.MRCNN_EXT.EVALUATION.BEST_METRIC = "segm/AP"
        _Evaluated.tests, _Evaluated.kill_in = 0, kill_in
        torch.manual_seed(0)
        trainer = _Evaluated(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        return json.loads((tmp_path / name / "model_best.json").read_text())

    whole = run("whole", 0)
    with pytest.raises(_Killed):
        run("killed", 2)
    assert run("killed", 0) == whole
    assert _metrics(tmp_path / "killed") == _metrics(tmp_path / "whole")


# ---- signals -------------------------------------------------------------------------------------


class _Signal(HookBase):
    def __init__(self, step: int, method: str) -> None:
        setattr(self, method, lambda: self._send(step))

    def _send(self, step: int) -> None:
        if self.trainer.iter == step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("method", "step", "last"),
    [("before_step", 3, 3), ("after_step", 3, 3), ("after_step", 4, 4)],
)
def test_sigterm_writes_a_checkpoint_and_says_so_by_its_code(tmp_path, method, step, last):
    whole = _train(linear_cfg(tmp_path / "whole", RESUME__EXACT=True))
    cfg = linear_cfg(tmp_path / "ended", RESUME__EXACT=True)
    torch.manual_seed(0)
    trainer = Exact(cfg)
    trainer.resume_or_load(resume=True)
    trainer.register_hooks([_Signal(step, method)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            trainer.train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 143
    resumed = _train(cfg)
    assert resumed.start_iter == last + 1
    assert resumed.losses == whole.losses[last + 1 :]


def test_the_handler_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    _train(linear_cfg(tmp_path, RESUME__EXACT=True))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loader_of_the_scripts_own_is_an_error(tmp_path):
    trainer = Exact(linear_cfg(tmp_path, RESUME__EXACT=True))
    trainer.data_loader = [[]]
    with pytest.raises(ConfigError, match="data loader is list"):
        trainer.train()


def test_the_stock_trainer_class_is_not_changed():
    assert not issubclass(DefaultTrainer, TrainerMixin)
