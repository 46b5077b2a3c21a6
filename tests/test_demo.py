# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The demo: a whole small one, what it says when something is wrong, and what it draws from."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from pycocotools import mask as mask_util

from mrcnn_ext import demo
from mrcnn_ext.config.load import get_config_file
from mrcnn_ext.files import only_process
from tests.helpers import run_python, tool

needs_tools = pytest.mark.skipif(
    not tool("train_net.py").is_file(),
    reason="Detectron2 was not installed from tools/build_detectron2.py's wheel",
)
TINY = """MODEL.ROI_BOX_HEAD.FC_DIM 32 MODEL.RPN.POST_NMS_TOPK_TEST 20 MRCNN_EXT.SHAPES.NUM_TRAIN 6
    MRCNN_EXT.SHAPES.NUM_VAL 3 MRCNN_EXT.SHAPES.IMAGE_SIZE 96 INPUT.MIN_SIZE_TRAIN (64,)
    INPUT.MAX_SIZE_TRAIN 96 INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2
    SOLVER.CHECKPOINT_PERIOD 1 DATALOADER.NUM_WORKERS 0 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0""".split()
TINY = ["MODEL.WEIGHTS", "", *TINY]


def _demo(output, *arguments, opts=()):
    command = ["-m", "mrcnn_ext.demo", "--output", output, "--score-threshold", "0"]
    return run_python([*command, *arguments, *TINY, *opts])


@pytest.fixture(autouse=True)
def _no_photos(monkeypatch):
    """tests/predict/test_photos.py has them; demos in processes of their own draw them anyway."""
    monkeypatch.setattr("mrcnn_ext.predict.photos.example_photos", list)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "out"
    return output, _demo(output, "--iterations", "1", "--pictures", "2")


@pytest.mark.slow
@needs_tools
def test_demo_trains_prints_the_table_and_writes_what_it_names(finished):
    output, result = finished
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Average precision on mrcnn_ext_shapes_val" in result.stdout
    assert (output / "persons" / "astronaut.png").is_file()
    assert "astronaut.png  1 found" in result.stdout
    assert "FutureWarning" not in result.stderr
    scores = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    shown = re.search(r"masks\D+([\d.]+)", result.stdout)[1]
    assert float(shown) == pytest.approx(scores[-1]["segm/AP"], abs=0.05)
    for name in ("truth_and_prediction.png", "training_curves.png", "model_final.pth", "train.log"):
        assert (output / name).is_file()
        assert str(output / name) in result.stdout
    sheet = cv2.imread(str(output / "truth_and_prediction.png"))
    assert sheet.std() > 10
    assert len(list((output / "pictures").glob("*.png"))) == 2


@pytest.mark.slow
@needs_tools
def test_the_next_command_that_demo_prints_works(finished, tmp_path):
    _, result = finished
    line = result.stdout[result.stdout.index("Next") :].splitlines()[1]
    arguments = shlex.split(line)[1:]
    arguments[arguments.index("--output") + 1] = tmp_path / "predictions"
    again = run_python(arguments)
    assert again.returncode == 0, again.stderr[-2000:]
    assert len(list((tmp_path / "predictions" / "pictures").glob("*.png"))) == 3


@pytest.mark.slow
@needs_tools
def test_a_second_demo_goes_on_where_the_first_ended(finished):
    output, _ = finished
    result = _demo(output, "--iterations", "2", "--pictures", "0")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Starting training from iteration 1" in (output / "train.log").read_text()
    assert (output / "pictures").is_dir()


@pytest.mark.slow
@needs_tools
def test_a_training_that_fails_is_quoted(tmp_path):
    result = _demo(tmp_path / "out", opts=["MODEL.WEIGHTS", str(tmp_path / "none.pth")])
    assert result.returncode == 1
    assert "demo: train_net.py failed" in result.stderr
    assert "none.pth" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--iterations", "0"], "--iterations is 0"),
        (["--pictures", "-1"], "--pictures is -1"),
        (["DATASETS.TRAIN", "('no_such_set',)"], "DATASETS.TRAIN names 'no_such_set'"),
        (["--config", "Shapes/mask_rcnn_Lite0.yaml"], "similar ones: Shapes/mask_rcnn_Lite0_FPN"),
        (["--tools", "/nowhere"], "there is no /nowhere/train_net.py"),
        (["MRCNN_EXT.SHAPE.SEED", "1"], "Non-existent key: MRCNN_EXT.SHAPE"),
        (["MODEL.DEVICE"], "config Shapes/mask_rcnn_Lite0_FPN.yaml MODEL.DEVICE"),
    ],
)
def test_mistakes_are_found_before_anything_happens(arguments, message, tmp_path, capsys):
    output = tmp_path / "out"
    if "--tools" not in arguments:
        (tmp_path / "train_net.py").write_text("raise SystemExit(3)")
        arguments = ["--tools", str(tmp_path), *arguments]
    assert demo.main(["--output", str(output), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_fresh_deletes_only_what_a_demo_made(tmp_path, capsys):
    (tmp_path / "train_net.py").write_text("raise SystemExit(3)")
    (tmp_path / "thesis.txt").write_text("years of work")
    arguments = ["--output", str(tmp_path), "--tools", str(tmp_path), "--fresh"]
    assert demo.main(arguments) == 1
    assert "was not made by this demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").is_file()


# ----------------------------------------------------------------------------------- ends and starts


def _fake(folder, code: str) -> list[str]:
    """Arguments for a demo whose train_net.py is ``code``."""
    folder.mkdir()
    (folder / "train_net.py").write_text(code)
    return ["--tools", str(folder), "--output", str(folder.parent / "out"), "--device", "cpu"]


def _state(folder) -> dict:
    """Every file with its content and time of change."""
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.iterdir()}


@pytest.mark.parametrize("arguments", [[], ["--fresh"]])
def test_a_second_demo_leaves_the_folder_of_a_running_one_alone(tmp_path, capsys, arguments):
    arguments = [*_fake(tmp_path / "tools", "raise SystemExit(3)"), *arguments]
    out = tmp_path / "out"
    with only_process(out):
        for name in ("train.log", "metrics.json", "last_checkpoint", ".a.json.x.part"):
            (out / name).write_text("half a li")
        before = _state(out)
        assert demo.main(arguments) == 1
        assert _state(out) == before
    assert f"demo: another process is at work in {out}" in capsys.readouterr().err


def test_fresh_deletes_what_a_demo_made(tmp_path, capsys):
    arguments = [*_fake(tmp_path / "tools", "raise SystemExit(3)"), "--fresh"]
    (tmp_path / "out" / "inference").mkdir(parents=True)
    for name in ("train.log", "model_final.pth", "inference/a.json"):
        (tmp_path / "out" / name).write_text("old")
    assert demo.main(arguments) == 1
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["train.log"]
    assert (tmp_path / "out" / "train.log").read_text() == ""
    assert "train_net.py failed" in capsys.readouterr().err


_TRAINS = """
import os, subprocess, sys, time
out = sys.argv[sys.argv.index("OUTPUT_DIR") + 1]
open(out + "/last_checkpoint", "w").write("model_0000499.pth")
worker = subprocess.Popen(["sleep", "100"])
open(out + "/pids", "w").write(f"{os.getpid()} {worker.pid} {os.environ['TMPDIR']} .")
print("iter: 520  total_loss: 1.25", flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_ends_the_training_and_says_how_to_go_on(tmp_path, capsys, name, code):
    arguments, out = _fake(tmp_path / "tools", _TRAINS), tmp_path / "out"
    (out).mkdir()
    (out / "train.log").write_text("of an earlier call\n")
    torch.save({"model": {}, "iteration": 499}, out / "model_0000499.pth")
    (out / "last_checkpoint").write_text("model_0000499.pth")

    def send():
        while "iter: 520" not in (out / "train.log").read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), getattr(signal, name))

    thread = threading.Thread(target=send)
    thread.start()
    assert demo.main(arguments) == code
    thread.join()
    said = capsys.readouterr()
    assert "ended training: step 521/1500, loss 1.25" in said.out
    assert f"Ended by {name}; the same command goes on from the last checkpoint" in said.err
    training, worker, temporary, _ = (out / "pids").read_text().split()
    assert not Path(f"/proc/{training}").exists()
    stat = Path(f"/proc/{worker}/stat")
    with suppress(FileNotFoundError):  # nobody may take notice of its end
        start = time.monotonic()
        while ") Z" not in stat.read_text():
            assert time.monotonic() - start < 30
            time.sleep(0.02)
    assert "mrcnn_ext_" in temporary
    assert not Path(temporary).exists()
    assert (out / "train.log").read_text() == "of an earlier call\niter: 520  total_loss: 1.25\n"
    assert not list(out.glob(".*"))


def test_a_damaged_checkpoint_is_named_and_train_net_gets_the_one_before(tmp_path, capsys):
    arguments, out = _fake(tmp_path / "tools", "raise SystemExit(3)"), tmp_path / "out"
    out.mkdir()
    for done in (500, 1000, 1500):
        content = {"model": {"a": torch.zeros(3)}, "iteration": done - 1}
        torch.save(content, out / f"model_{done - 1:07d}.pth")
    (out / "model_0001499.pth").write_bytes(b"PK half a file")
    (out / "last_checkpoint").write_text("model_0001499.pth")
    (out / "metrics.json").write_text('{"iteration": 1499}\n{"iterati')
    (out / ".model.x.part").write_text("")
    assert demo.main(arguments) == 1
    assert (out / "last_checkpoint").read_text() == "model_0000999.pth"
    assert f"warning: {out}/model_0001499.pth is damaged" in capsys.readouterr().out
    assert (out / "metrics.json").read_text() == '{"iteration": 1499}\n'
    assert not (out / ".model.x.part").exists()
    for file in out.glob("*.pth"):
        file.write_bytes(b"")
    assert demo.main(arguments) == 1
    assert not (out / "last_checkpoint").exists()
    assert "starting from the beginning" in capsys.readouterr().out


def _of(folder) -> list[int]:
    """Processes, data loaders' workers among them, that work in a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            text = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in text and int(file.parent.name) != os.getpid():
                found.append(int(file.parent.name))
    return found


def _signal(processes: list[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


@pytest.mark.slow
@needs_tools
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("command", ["demo", "compare"])
def test_real_trainings_end_and_go_on(tmp_path, command, name):
    out = tmp_path / "out"
    arguments = ["-m", f"mrcnn_ext.{command}", "--output", str(out)]
    if command == "compare":
        base = str(Path(get_config_file("Shapes/mask_rcnn_Lite0_FPN.yaml")))
        arguments += ["--base", base, "--heads", "MrcnnExtFCNMaskHead", "--mode", "end_to_end"]
        arguments += ["--seeds", "1"]
    else:
        arguments += ["--device", "cpu", "--pictures", "0"]
    opts = [*TINY, "DATALOADER.NUM_WORKERS", "2", "MODEL.DEVICE", "cpu"]
    opts[opts.index("SOLVER.CHECKPOINT_PERIOD") + 1] = "5"
    arguments += ["--iterations", "50", *opts]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    while not list(out.glob("**/last_checkpoint")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    running = _of(out)
    _signal(running, signal.SIGSTOP)  # else they could be done when the second has started
    assert len(running) >= 4  # the command, its training, two workers
    second = run_python(arguments)
    _signal(running, signal.SIGCONT)
    assert second.returncode == 1
    assert "another process is at work in" in second.stderr
    logs = {file: file.read_bytes() for file in (*out.glob("**/*.log"), *out.glob("**/output.txt"))}
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=100)[1]
    assert process.returncode == (143 if name == "SIGTERM" else -9)
    if name == "SIGTERM":
        assert "Ended by SIGTERM; the same command goes on" in said
        assert _of(out) == []
    start = time.monotonic()
    while _of(out):
        assert time.monotonic() - start < 60, _of(out)
        time.sleep(0.1)
    done = run_python(arguments, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    for file, before in logs.items():
        assert file.read_bytes().startswith(before)
    assert len(list(out.glob("**/model_*.pth"))) == (2 if command == "demo" else 1)
    assert not list(out.glob("**/.*"))


def test_predictions_come_back_as_they_were_evaluated(tmp_path):
    mask = np.zeros((20, 30), dtype=np.uint8, order="F")
    mask[5:9, 3:12] = 1
    rle = mask_util.encode(mask)
    rle["counts"] = rle["counts"].decode()
    found = {"image_id": 7, "category_id": 4, "bbox": [3.0, 5.0, 9.0, 4.0], "segmentation": rle}
    (tmp_path / "inference").mkdir()
    file = tmp_path / "inference" / "coco_instances_results.json"
    file.write_text(json.dumps([{**found, "score": 0.9}, {**found, "score": 0.2}]))
    metadata = Metadata(thing_dataset_id_to_contiguous_id={4: 1})
    records = [{"image_id": 7, "height": 20, "width": 30}]
    by_image = demo._predictions(tmp_path, records, metadata, score_threshold=0.5)
    assert list(by_image) == [7]
    instances = demo._to_instances(by_image[7], 20, 30)
    assert instances.pred_boxes.tensor.tolist() == [[3, 5, 12, 9]]
    assert instances.pred_classes.tolist() == [1]
    assert instances.scores.tolist() == pytest.approx([0.9])
    assert (instances.pred_masks[0].numpy() == mask).all()
    assert len(demo._to_instances([], 20, 30)) == 0
