# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""All keys of training together, in real processes: the unmodified train_net.py, and this package's."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from tests.helpers import REPO, run_python, tool
from tests.test_tools import HOOK, TINY, YAML, _ok

pytestmark = pytest.mark.slow

ALL = """
    SEED 4 SOLVER.MAX_ITER 6 SOLVER.CHECKPOINT_PERIOD 2 TEST.EVAL_PERIOD 2
    SOLVER.BASE_LR 0.0001
    MRCNN_EXT.SOLVER.OPTIMIZER AdamW MRCNN_EXT.SOLVER.SCHEDULE flat_cosine
    MRCNN_EXT.SOLVER.LAYER_DECAY 0.9 MRCNN_EXT.SOLVER.NO_DECAY_NORM_AND_BIAS True
    MRCNN_EXT.SOLVER.ACCUMULATE 2 MRCNN_EXT.EMA.ENABLED True
    MRCNN_EXT.EARLY_STOPPING.METRIC segm/AP MRCNN_EXT.EARLY_STOPPING.PATIENCE 1
    MRCNN_EXT.EARLY_STOPPING.MIN_DELTA 101.0
    MRCNN_EXT.EVALUATION.ENABLED True MRCNN_EXT.EVALUATION.BEST_METRIC ema/segm/AP
    MRCNN_EXT.LOG.WRITERS ['tensorboard'] MRCNN_EXT.LOG.IMAGES 2 MRCNN_EXT.LOG.PERIOD 1
    MRCNN_EXT.RESUME.EXACT True MRCNN_EXT.RESUME.KEEP 1
""".split()


def _run(command, output, *arguments, env=None):
    whole = ["-W", "ignore", *command, "--config-file", YAML, *arguments]
    return run_python([*whole, *TINY, *ALL, "OUTPUT_DIR", output], env=env)


@pytest.fixture(scope="module")
def by_train_net(tmp_path_factory):
    output = tmp_path_factory.mktemp("train_net")
    return output, _ok(_run([tool("train_net.py")], output, env=HOOK))


def _metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    plain = [{k: v for k, v in line.items() if "time" not in k} for line in lines]
    # After the last step, Detectron2 writes what the final evaluation of a resumed training gives.
    return [{k: v for k, v in line.items() if k != "eta_seconds"} for line in plain[:4]]


def test_every_key_has_its_effect(by_train_net):
    output, text = by_train_net
    assert "Training stops early after step 3" in text  # the first of two evaluations is the best
    lines = _metrics(output)
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3]
    assert {"segm/AP", "ema/segm/AP"} <= lines[-1].keys()
    names = sorted(file.name for file in output.glob("*.pth"))
    assert names == [
        "model_0000003.pth", "model_best.pth", "model_ema_final.pth", "model_final.pth",
    ]  # fmt: skip
    content = torch.load(output / "model_final.pth", weights_only=True)
    assert {"EMAHook", "EarlyStopping", "ExactResume"} <= content["trainer"]["hooks"].keys()
    assert any(output.glob("events.out.tfevents*"))


def test_resumed_it_does_not_go_on(by_train_net):
    output, _ = by_train_net
    before = _metrics(output)
    text = _ok(_run([tool("train_net.py")], output, "--resume", env=HOOK))
    assert "has stopped early" in text
    assert _metrics(output) == before


def test_our_own_command_trains_the_same(by_train_net, tmp_path):
    _ok(_run(["-m", "mrcnn_ext.train"], tmp_path))
    assert _metrics(tmp_path) == _metrics(by_train_net[0])
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (by_train_net[0], tmp_path)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_killed_often_it_ends_as_if_it_had_not_been(tmp_path):
    script = REPO / "tools" / "kill_training.py"
    text = _ok(run_python([script, "--kills", "4", "--steps", "40", "--out", tmp_path / "kills"]))
    assert json.loads(text[text.index("{") :])["differences"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_metrics_file_that_cannot_be_written_costs_no_training(tmp_path):
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "metrics.json").symlink_to("/dev/full")
    text = _ok(_run([tool("train_net.py")], tmp_path, env=HOOK))
    assert "failed" in text
    assert (tmp_path / "model_final.pth").is_file()
