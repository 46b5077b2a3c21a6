# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""``python -m mrcnn_ext.train``: as Detectron2's train_net.py, and what it does beyond that."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from detectron2.engine import default_argument_parser

from mrcnn_ext import train
from mrcnn_ext.errors import DataError
from tests.helpers import REPO, THREADS, run_python, tool
from tests.test_tools import LAZY, LAZY_TINY, TINY, YAML

NAME = "Shapes/mask_rcnn_Lite0_FPN.yaml"
NO_FOLDER = f"{__file__}/below"


def _options(parser) -> dict:
    return {
        action.dest: (tuple(action.option_strings), action.default)
        for action in parser._actions
        if action.dest != "help"
    }


def test_the_command_line_is_train_nets():
    ours, theirs = _options(train._parser()), _options(default_argument_parser())
    assert {name: ours[name] for name in theirs} == theirs
    assert set(ours) - set(theirs) == {"imports", "trust_pickle"}
    text = train._parser().format_help()
    assert "CPU processes" in text
    assert "Exit code 0" in text


def _fails(capsys, *arguments) -> str:
    """The one message of a command that fails before anything is built."""
    assert train.main([str(word) for word in arguments]) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (line,) = captured.err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "train: --config-file is missing."),
        (["--config-file", "no/such.yaml"], "train: there is no file 'no/such.yaml', and"),
        (["--config-file", NAME, "MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu'; expected 'cuda'"),
        (["--config-file", NAME, "MODEL.NO_KEY", "1"], "Non-existent key: MODEL.NO_KEY"),
        (["--config-file", NAME, "SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED is True, but"),
        (["--config-file", NAME, "MODEL.WEIGHTS", "no.pth"], "no.pth: there is no such file"),
        (
            ["--num-gpus", "3", "--config-file", NAME, "SOLVER.IMS_PER_BATCH", "4"],
            "SOLVER.IMS_PER_BATCH is 4, which 3 processes",
        ),
        (
            ["--num-gpus", "2", "--config-file", NAME, "MRCNN_EXT.TIMM.NORM", "SyncBN"],
            "MRCNN_EXT.TIMM.NORM is 'SyncBN', which works on GPUs only",
        ),
        (["--num-gpus", "0", "--config-file", NAME], "--num-gpus) is 0; expected 1 or more"),
        (["--machine-rank", "1", "--config-file", NAME], "machine_rank (--machine-rank) is 1"),
        (["--import", "no_such_module", "--config-file", NAME], "--import no_such_module:"),
        (["--config-file", NAME, "SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0; expected"),
        (["--config-file", NAME, "OUTPUT_DIR", ""], "OUTPUT_DIR is ''; expected a folder"),
        (["--config-file", NAME, "OUTPUT_DIR", NO_FOLDER], "OUTPUT_DIR is '/"),
        (["--config-file", LAZY, f"train.output_dir={NO_FOLDER}"], "train.output_dir is '"),
        (["--config-file", LAZY, "train.no_such.key"], "overrides of "),
        (["--config-file", LAZY, "train.device=gpu"], "train.device is 'gpu'; expected"),
    ],
)
def test_mistakes_are_one_message(capsys, arguments, message):
    assert message in _fails(capsys, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without GPU")
@pytest.mark.parametrize(
    ("config", "setting", "advice"),
    [(NAME, ["MODEL.DEVICE", "cuda"], "add MODEL.DEVICE cpu"),
     (LAZY, ["train.device=cuda"], "add train.device=cpu")],
)  # fmt: skip
def test_a_machine_without_gpu(capsys, config, setting, advice):
    line = _fails(capsys, "--config-file", config, *setting)
    assert "PyTorch finds no GPU here" in line
    assert advice in line


def test_own_errors_in_a_training_are_logged_without_traceback(capsys):
    logger = logging.getLogger("detectron2.engine.train_loop")
    train._log_own_errors_briefly()
    train._log_own_errors_briefly()
    assert len(logger.filters) == 1
    try:
        for error, is_logged in ((DataError("image 7"), False), (KeyError("a bug"), True)):
            try:
                raise error
            except Exception:
                record = logger.makeRecord(
                    logger.name, logging.ERROR, "", 0, "Exception", (), sys.exc_info()
                )
            assert logger.filter(record) in ((True, record) if is_logged else (False,))
            assert bool(record.exc_info) == is_logged
    finally:
        logger.filters.clear()


class _StandIn:
    """In the place of the trainer; what it does with a config is tested elsewhere."""

    calls: list = []

    def __init__(self, cfg) -> None:
        self.calls.append(("build", cfg.SOLVER.MAX_ITER, cfg.is_frozen()))
        self.checkpointer = self.model = None
        self.start_iter = 0

    def resume_or_load(self, resume: bool) -> None:
        self.calls.append(("load", resume))

    def register_hooks(self, hooks: list) -> None:
        self.calls.append(("hooks", [type(hook).__name__ for hook in hooks]))

    def train(self) -> None:
        self.calls.append("train")
        raise DataError("image 7 is black.")


def test_steps_of_a_training(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(train, "default_setup", lambda cfg, args: None)
    monkeypatch.setattr(train, "_CommandTrainer", _StandIn)
    monkeypatch.setattr(train, "check_same_start", lambda *_: None)
    command = ["--config-file", NAME, "--resume", "SOLVER.MAX_ITER", "7", "TEST.AUG.ENABLED"]
    command += ["True", "OUTPUT_DIR", tmp_path]
    assert "train: image 7 is black." in _fails(capsys, *command)
    expected = [("build", 7, True), ("load", True), ("hooks", ["EvalHook"]), "train"]
    assert _StandIn.calls == expected
    logging.getLogger("detectron2.engine.train_loop").filters.clear()


# --------------------------------------------------------------------------------- in other processes


def _command(output, *arguments, opts=()):
    command = ["-W", "ignore", "-m", "mrcnn_ext.train", "--config-file", NAME, *arguments]
    return [*command, *TINY, "SEED", "1", "OUTPUT_DIR", output, *opts]


def _train(output, *arguments, opts=()) -> str:
    result = run_python(_command(output, *arguments, opts=opts), timeout=900)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def _metrics(output) -> list[dict]:
    lines = map(json.loads, (output / "metrics.json").read_text().splitlines())
    return [{k: v for k, v in line.items() if "time" not in k} for line in lines]


def _weights(file) -> dict:
    return torch.load(file, map_location="cpu", weights_only=False)["model"]


def _same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory):
    """Two steps on a machine, in two processes, and the evaluation."""
    output = tmp_path_factory.mktemp("two")
    text = _train(output, "--num-gpus", "2", "--dist-url", "auto", opts=["SOLVER.MAX_ITER", "2"])
    return output, text


@pytest.mark.slow
@pytest.mark.skipif(not tool("train_net.py").is_file(), reason="Detectron2's tools are not there")
def test_it_trains_what_train_net_trains_bit_for_bit(tmp_path):
    opts = ["SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()"]
    _train(tmp_path / "ours", opts=opts)
    command = ["-W", "ignore", tool("train_net.py"), "--config-file", YAML, *TINY, "SEED", "1"]
    command += ["OUTPUT_DIR", tmp_path / "theirs", *opts]
    result = run_python(command, env={"DETECTRON2_ENV_MODULE": "mrcnn_ext.d2_env"}, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    assert _metrics(tmp_path / "ours") == _metrics(tmp_path / "theirs") != []
    for name in ("model_0000000.pth", "model_final.pth"):
        ours, theirs = (_weights(tmp_path / kind / name) for kind in ("ours", "theirs"))
        assert _same(ours, theirs), name


@pytest.mark.slow
def test_two_processes_train_and_evaluate(in_two_processes, tmp_path):
    output, text = in_two_processes
    assert "World size: 2" in text
    files = {path.name for path in output.iterdir()}
    assert "model_final.pth" in files
    assert [name for name in files if "rank" in name] == ["log.txt.rank1"]
    # The gathered results are those of one process.
    weights = ["MODEL.WEIGHTS", output / "model_final.pth"]
    again = _train(tmp_path, "--eval-only", opts=weights)
    lines = [
        [line.split("copypaste")[1] for line in part.splitlines() if "copypaste" in line]
        for part in (text, again)
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 6
    results = [
        json.loads((folder / "inference" / "coco_instances_results.json").read_text())
        for folder in (output, tmp_path)
    ]
    boxes = [sorted([r["image_id"], *r["bbox"], r["score"]] for r in part) for part in results]
    assert boxes[0] == boxes[1] != []


@pytest.mark.slow
def test_two_machines_train_what_two_processes_of_one_do(in_two_processes, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    command = _command(tmp_path, "--num-machines", "2", "--dist-url", address, "--machine-rank")
    at = command.index("--machine-rank") + 1
    opts = ["SOLVER.MAX_ITER", "2"]
    machines = [
        subprocess.Popen(
            [sys.executable, *map(str, [*command[:at], rank, *command[at:], *opts])],
            cwd=REPO,
            env={**os.environ, "OMP_NUM_THREADS": str(THREADS)},  # sums depend on it
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    texts = [machine.communicate(timeout=900)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], texts[0][-3000:] + texts[1]
    assert _same(
        _weights(tmp_path / "model_final.pth"), _weights(in_two_processes[0] / "model_final.pth")
    )


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_in_two_processes(tmp_path):
    opts = ["SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "100000", "DATASETS.TEST"]
    opts += ["()", "MRCNN_EXT.RESUME.EXACT", "True", "MRCNN_EXT.LOG.PERIOD", "1"]
    command = _command(tmp_path, "--num-gpus", "2", "--dist-url", "auto", opts=opts)
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=REPO)
    start = time.monotonic()
    file = tmp_path / "metrics.json"
    while not (file.is_file() and file.stat().st_size):  # it is opened before the first step
        assert process.poll() is None
        assert time.monotonic() - start < 600
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM
    (name,) = [path.name for path in tmp_path.glob("model_*.pth")]
    assert (tmp_path / "last_checkpoint").read_text() == name


@pytest.mark.slow
def test_an_error_of_one_process_is_one_message(tmp_path):
    """Weights that do not fit are found by both."""
    torch.save({"model": {}}, tmp_path / "empty.pth")
    weights = ["MODEL.WEIGHTS", tmp_path / "empty.pth"]
    command = _command(tmp_path, "--eval-only", "--num-gpus", "2", "--dist-url", "auto")
    result = run_python([*command, *weights], timeout=900)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stderr.count("empty.pth (MODEL.WEIGHTS): has none of the model's") == 1


@pytest.mark.slow
def test_a_lazy_config_trains_goes_on_and_evaluates(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from detectron2.config import LazyCall as L\n"
        "from detectron2.config import LazyConfig\n"
        "from detectron2.utils.events import JSONWriter\n"
        "from mrcnn_ext.data.shapes import configure_builtin_shapes\n"
        "from own_hook import Note\n"
        "configure_builtin_shapes(num_train=6, num_val=3, image_size=96)\n"
        f"cfg = LazyConfig.load({str(LAZY)!r})\n"
        "model, dataloader, train = cfg.model, cfg.dataloader, cfg.train\n"
        "optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier\n"
        f"train.hooks = [L(Note)(file={str(tmp_path / 'steps.txt')!r})]\n"
        f"train.writers = [L(JSONWriter)(json_file={str(tmp_path / 'own.json')!r})]\n"
        "train.exact_resume = True\n"
        "train.accumulate = dict(steps=2)\n"
        "train.ema = dict(decay=0.9)\n"
        "train.early_stopping = dict(metric='segm/AP', patience=3)\n"
    )
    (tmp_path / "own_hook.py").write_text(
        "from detectron2.engine import HookBase\n"
        "class Note(HookBase):\n"
        "    def __init__(self, file):\n"
        "        self.file = file\n"
        "    def after_step(self):\n"
        "        with open(self.file, 'a') as file:\n"
        "            file.write(f'{self.trainer.iter} ')\n"
    )
    command = ["-W", "ignore", "-m", "mrcnn_ext.train", "--config-file", tmp_path / "mine.py"]
    tiny = [
        *LAZY_TINY,
        "dataloader.train.total_batch_size=4",
        f"train.output_dir={tmp_path / 'out'}",
        "train.seed=1",
    ]
    run = {"cwd": tmp_path, "env": {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPO}"}, "timeout": 900}
    result = run_python([*command, "--num-gpus", "2", "--dist-url", "auto", *tiny], **run)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "copypaste: Task: segm" in result.stdout
    assert (tmp_path / "steps.txt").read_text().split() == ["0", "0", "1", "1"]
    assert (tmp_path / "own.json").is_file()
    assert (tmp_path / "out" / "model_ema_final.pth").is_file()
    weights = f"train.init_checkpoint={tmp_path / 'out' / 'model_final.pth'}"
    result = run_python([*command, "--resume", *tiny, "train.max_iter=3"], **run)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert (tmp_path / "steps.txt").read_text().split() == ["0", "0", "1", "1", "2"]
    result = run_python([*command, "--eval-only", *tiny, weights], **run)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "copypaste: Task: segm" in result.stdout
