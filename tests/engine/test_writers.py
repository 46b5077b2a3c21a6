# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Writers of logs: what they write, how they resume, and that no failure ends a training."""

from __future__ import annotations

import json
import logging
import random
import struct
import subprocess
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, LazyConfig
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from mrcnn_ext.engine.writers import (
    GuardedWriter,
    MLflowWriter,
    RunWriter,
    TensorboardWriter,
    WandbWriter,
    build_writers,
    git_state,
)
from mrcnn_ext.engine.writers import run_writer as run_writer_module
from mrcnn_ext.engine.writers.mlflow_writer import _name
from mrcnn_ext.engine.writers.run_facts import config_text, config_values, flat_values
from tests.helpers import small_cfg

GIT = {"commit": "0" * 40, "dirty": True}
CONFIG = {"SOLVER": {"BASE_LR": 0.25}, "MODEL": {"WEIGHTS": ""}}


class _Recorder(RunWriter):
    """Keeps what it is told to send."""

    def __init__(self, fail=(), **kwargs):
        super().__init__(**kwargs)
        self.calls, self._fail = [], fail

    def _note(self, *call):
        self.calls.append(call)
        if call[0] in self._fail:
            raise OSError("no room")

    def start(self, first_iteration):
        self._note("start", first_iteration)

    def send(self, scalars, pictures):
        self._note("send", scalars, [(p.name, p.image, p.iteration) for p in pictures])

    def finish(self, final, status):
        self._note("finish", final, status)


def _train(writers, start=0, stop=4, period=2, error=None):
    """What a trainer does with its writers: a step each iteration, the writers at the period."""
    with EventStorage(start) as storage:
        try:
            for storage.iter in range(start, stop):
                storage.put_scalar("total_loss", float(storage.iter) ** 2)
                storage.put_scalar("lr", 0.1 * storage.iter, smoothing_hint=False)
                if storage.iter == 2:
                    storage.put_image("a/b", np.full((3, 4, 5), 7, np.uint8))
                if (storage.iter + 1) % period == 0:
                    for writer in writers:
                        writer.write()
            if error is not None:
                raise error
        finally:
            storage.iter = stop
            storage.put_scalar("segm/AP", 31.5, smoothing_hint=False)
            for writer in writers:
                writer.write()
                writer.close()
    return storage


def test_scalars_pictures_and_final_values_are_sent():
    writer = _Recorder(window_size=3)
    other = _Recorder()
    storage = _train([writer, other])
    kinds = [call[0] for call in writer.calls]
    assert kinds == ["start", "send", "send", "send", "finish"]
    assert writer.calls[0] == ("start", 0)
    assert writer.calls[1][1] == {1: {"total_loss": 0.5, "lr": 0.1}}  # medians of losses alone
    assert writer.calls[2][1] == {3: {"total_loss": 4.0, "lr": pytest.approx(0.3)}}
    assert writer.calls[3][1] == {4: {"segm/AP": 31.5}}
    for each in (writer, other):  # both see the picture, which then is deleted
        ((name, image, iteration),) = each.calls[2][2]
        assert (name, image.shape, image.dtype, iteration) == ("a/b", (4, 5, 3), np.uint8, 2)
        assert (image == 7).all()
        assert each.calls[3][2] == []
    assert not storage._vis_data
    final = {"total_loss": 4.0, "lr": pytest.approx(0.3), "segm/AP": 31.5}
    assert writer.calls[-1] == ("finish", final, "finished")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), "failed"),
        (KeyboardInterrupt(), "killed"),
        (SystemExit(143), "killed"),
        (SystemExit(0), "finished"),
    ],
)
def test_the_log_says_how_training_ended(error, status):
    writer = _Recorder()
    with pytest.raises(type(error)):
        _train([writer], error=error)
    assert writer.calls[-1][2] == status


def test_a_failure_is_a_warning_and_a_writer_is_given_up_after_some(caplog):
    writer = _Recorder(fail=["send"], most_failures=3)
    good = _Recorder()
    _train([writer, good], stop=12)
    assert [c[0] for c in writer.calls] == ["start", "send", "send", "send"]
    assert [c[0] for c in good.calls].count("send") == 7
    first, last = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "_Recorder failed (OSError: no room). Training goes on" in first
    assert "_Recorder failed 3 times in a row" in last


def test_a_run_that_could_not_start_is_tried_again():
    writer = _Recorder(fail=["start"])
    begin, calls = writer.start, []

    def start(first_iteration):
        calls.append(first_iteration)
        if len(calls) == 2:
            writer._fail = ()
        begin(first_iteration)

    writer.start = start
    _train([writer])
    assert calls == [0, 0]
    assert writer.calls[-1][0] == "finish"


def test_a_writer_that_hangs_holds_up_nothing_for_long(caplog, monkeypatch):
    monkeypatch.setattr(run_writer_module, "_WAITING_PICTURES", 0)
    forever = threading.Event()
    writer = _Recorder(start_seconds=0.1, close_seconds=0.1)
    writer.start = lambda first: forever.wait(60)
    writer._queue.maxsize = 3
    start = time.monotonic()
    _train([writer], stop=40)
    assert time.monotonic() - start < 5
    text = caplog.text
    assert "_Recorder did not begin within 0.1 seconds" in text
    assert text.count("cannot keep up") == 1
    assert "_Recorder did not end within 0.1 seconds" in text
    forever.set()


class _Raises(EventWriter):
    def __init__(self):
        self.calls = 0

    def write(self):
        self.calls += 1
        raise OSError("disk full")

    def close(self):
        raise OSError("disk full")


def test_guarded_writers_raise_nothing(caplog):
    inner = _Raises()
    _train([GuardedWriter(inner, most_failures=2)], stop=8)
    assert inner.calls == 2
    assert caplog.text.count("WARNING") == 2
    assert "The writer _Raises failed (OSError: disk full)" in caplog.text


class _DrawsNumbers(_Recorder):
    def start(self, first_iteration):
        random.random(), np.random.rand(), torch.rand(1)


def test_random_numbers_of_training_stay():
    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed()
    expected = draw()
    seed()
    _train([_DrawsNumbers()])
    assert draw() == expected


def test_only_the_main_process_writes(monkeypatch):
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    writer = _Recorder()
    _train([writer])
    assert not writer.calls


def test_a_resumed_training_is_recognised_in_a_real_trainer():
    class Trainer(TrainerBase):
        def run_step(self):
            get_event_storage().put_scalar("total_loss", 1.0)

    class Fails(HookBase):
        def after_step(self):
            raise FloatingPointError("loss is NaN")

    starts = []
    for first, extra in ((0, []), (3, [Fails()])):
        writer = _Recorder()
        trainer = Trainer()
        trainer.register_hooks([*extra, hooks.PeriodicWriter([writer], 2)])
        with suppress(FloatingPointError):
            trainer.train(first, 5)
        starts.append((writer.calls[0], writer.calls[-1][2]))
    assert starts == [(("start", 0), "finished"), (("start", 3), "failed")]


# ------------------------------------------------------------------------------- facts of a run


def test_an_exact_resume_writes_nothing_twice(tmp_path):
    """It restores the last values, and tells writers what was written before."""
    writer, json_writer = _Recorder(), JSONWriter(str(tmp_path / "metrics.json"))
    guarded = GuardedWriter(json_writer)
    assert not hasattr(GuardedWriter(_Raises()), "_last_write")
    for each in (writer, guarded):
        assert hasattr(each, "_last_write")
        each._last_write = 3
    assert json_writer._last_write == 3
    with EventStorage(0) as storage:
        for storage.iter in (2, 3, 5):
            storage.put_scalar("loss", float(storage.iter))
            storage.put_scalar("at 3", 1.0) if storage.iter == 3 else None
        writer.write()
        writer.close()
    assert writer.calls[1][1] == {5: {"loss": 3.0}}
    assert writer.calls[-1][1] == {"loss": 3.0, "at 3": 1.0}


def test_config_as_text_and_values(tmp_path):
    cfg = small_cfg()
    assert config_text(cfg) == cfg.dump()
    flat = flat_values(config_values(cfg))
    assert flat["MODEL.ROI_HEADS.NUM_CLASSES"] == 8
    assert flat["DATASETS.TRAIN"] == ["mrcnn_ext_shapes_train"]
    file = tmp_path / "lazy.py"
    file.write_text(
        "from detectron2.config import LazyCall as L\nimport torch\n"
        "model = L(torch.nn.Linear)(in_features=2, out_features=3)\n"
        "train = dict(max_iter=90)\n"
    )
    lazy = LazyConfig.load(str(file))
    assert "max_iter" in config_text(lazy)
    flat = flat_values(config_values(lazy))
    assert flat["model.in_features"] == 2
    assert "Linear" in flat["model._target_"]
    assert config_text("as it is") == "as it is"
    assert config_text(None) == ""
    assert config_values("as it is") == config_values("a: [") == {}
    (tmp_path / "config.yaml").write_text("A: {B: 3}\n")
    writer = _Recorder(folder=tmp_path)
    assert writer.config_text == "A: {B: 3}\n"
    assert flat_values(writer.config_values) == {"A.B": 3}
    assert config_text(CONFIG).startswith("MODEL:")
    assert config_values({"f": LazyCall})["f"].endswith("LazyCall")


def test_git_state(tmp_path):
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "missing") is None

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    (tmp_path / "untracked").write_text("1")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path) == {**state, "dirty": True}


# ------------------------------------------------------------------------------------ libraries


def _read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard(tmp_path):
    def write(start, stop):
        writer = TensorboardWriter(log_dir=tmp_path, config=CONFIG)
        writer.git = GIT
        _train([writer], start, stop)

    write(0, 8)
    write(4, 6)  # resumed from a checkpoint: what came after it is no longer shown
    events = _read_events(tmp_path)
    points = [(event.step, event.value) for event in events.Scalars("lr")]
    assert points == [(s, pytest.approx(0.1 * s)) for s in (1, 3, 5)]
    assert [event.step for event in events.Images("a/b")] == [2]
    texts = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in ("config/text_summary", "git/text_summary", "final metrics/text_summary")
    }
    assert "BASE_LR: 0.25" in texts["config/text_summary"]
    assert json.loads(texts["git/text_summary"]) == GIT
    assert "| segm/AP | 31.5 |" in texts["final metrics/text_summary"]


def _wandb_records(file):
    """Records of a file of W&B, which is a log as LevelDB has it, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts, records = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def write(start, stop):
        writer = WandbWriter(output_dir=tmp_path, project="p", config=CONFIG)
        writer.git = GIT
        _train([writer], start, stop)
        return json.loads((tmp_path / "wandb_run.json").read_text())["id"]

    first = write(0, 4)
    assert write(2, 6) == first  # goes on
    assert write(0, 2) != first  # a new training in the same folder
    file = min(tmp_path.glob(f"wandb/offline-run-*-{first}/run-{first}.wandb"))
    records = _wandb_records(file)
    rows = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    losses = {int(row["iteration"]): row.get("lr") for row in rows if "lr" in row}
    assert losses == {1: "0.1", 3: str(0.1 * 3)}
    assert [int(row["iteration"]) for row in rows if any("a/b" in key for key in row)] == [2]
    text = str(records)
    assert "BASE_LR" in text
    assert GIT["commit"] in text
    assert 'key: "status"' in text or "status" in text
    assert list(tmp_path.glob("wandb/*/files/training_config.txt"))


@pytest.mark.slow
def test_wandb_without_a_login_keeps_the_run_here(tmp_path, monkeypatch, caplog):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(wandb, "login", lambda **kwargs: False)
    _train([WandbWriter(output_dir=tmp_path)])
    assert "there is no login" in caplog.text
    assert "'wandb sync' sends it later" in caplog.text
    assert list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.slow
def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def write(start, stop, config):
        writer = MLflowWriter(
            output_dir=tmp_path, experiment="e", name="n", tracking_uri=uri, config=config
        )
        writer.git = GIT
        _train([writer], start, stop)
        return json.loads((tmp_path / "mlflow_run.json").read_text())["run_id"]

    first = write(0, 4, CONFIG)
    changed = {**CONFIG, "SOLVER": {"BASE_LR": 0.5}, "SEED": 3}
    assert write(2, 6, changed) == first
    client = mlflow.MlflowClient(uri)
    run = client.get_run(first)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "n"
    assert run.data.params == {"SOLVER.BASE_LR": "0.25", "MODEL.WEIGHTS": "", "SEED": "3"}
    assert run.data.tags["resumed with SOLVER.BASE_LR"] == "0.5"
    assert run.data.tags["mlflow.source.git.commit"] == GIT["commit"]
    assert run.data.metrics["segm/AP"] == 31.5
    steps = sorted(metric.step for metric in client.get_metric_history(first, "lr"))
    assert steps == [1, 3, 3, 5]
    images = client.list_artifacts(first, "images")
    assert any("step%2" in item.path or "+2+" in item.path for item in images), images
    names = {item.path for item in client.list_artifacts(first)}
    assert {"training_config.txt", "final_metrics.json"} <= names
    client.delete_run(first)
    assert write(2, 4, CONFIG) != first


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("segm/AP-crème (brûlée)", "segm/AP-cr_me _br_l_e_"),
        ("../x", "x"),
        ("a//b/./c", "a/b/c"),
        ("..", "_"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_that_mlflow_takes(name, expected):
    assert _name(name) == expected


# ------------------------------------------------------------------------------- chosen by config


def test_the_config_chooses(tmp_path, monkeypatch):
    cfg = small_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    stock = [
        CommonMetricPrinter(9),
        JSONWriter(str(tmp_path / "metrics.json")),
        TensorboardXWriter(str(tmp_path)),
        _Raises(),
    ]
    assert build_writers(cfg, stock, 9) == stock
    cfg.MRCNN_EXT.LOG.WRITERS = ["tensorboard"]
    writers = build_writers(cfg, stock, 9)
    kinds = [type(getattr(writer, "writer", writer)).__name__ for writer in writers]
    assert kinds == ["TensorboardWriter", "CommonMetricPrinter", "JSONWriter", "_Raises"]
    _train(writers)
    assert (tmp_path / "metrics.json").read_text().count("\n") == 3
    kinds = [type(getattr(w, "writer", w)).__name__ for w in build_writers(cfg, [], 9)]
    assert kinds == ["TensorboardWriter", "CommonMetricPrinter", "JSONWriter"]
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert build_writers(cfg, [], 9) == []


@pytest.mark.parametrize(("name", "kind"), [("wandb", WandbWriter), ("mlflow", MLflowWriter)])
def test_a_missing_package_is_named_before_training(name, kind, tmp_path, monkeypatch):
    from mrcnn_ext.errors import ConfigError

    monkeypatch.setitem(__import__("sys").modules, name, None)  # cannot be imported
    with pytest.raises(ConfigError, match=rf"LOG.WRITERS has '{name}'.*pip install {name}"):
        kind(output_dir=tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cfg = small_cfg()
    cfg.MRCNN_EXT.LOG.WRITERS = [name]
    with pytest.raises(ConfigError, match=rf"LOG.WRITERS has '{name}'.*pip install {name}"):
        build_writers(cfg, [], 9)
