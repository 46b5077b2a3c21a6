# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The demo: a whole small one, what it says when something is wrong, and what it draws from."""

from __future__ import annotations

import json
import re
import shlex

import cv2
import numpy as np
import pytest
from detectron2.data import Metadata
from pycocotools import mask as mask_util

from mrcnn_ext import demo
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "out"
    return output, _demo(output, "--iterations", "1", "--pictures", "2")


@needs_tools
def test_demo_trains_prints_the_table_and_writes_what_it_names(finished):
    output, result = finished
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Average precision on mrcnn_ext_shapes_val" in result.stdout
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


@needs_tools
def test_the_next_command_that_demo_prints_works(finished, tmp_path):
    _, result = finished
    line = result.stdout[result.stdout.index("Next") :].splitlines()[1]
    arguments = shlex.split(line)[1:]
    arguments[arguments.index("--output") + 1] = tmp_path / "predictions"
    again = run_python(arguments)
    assert again.returncode == 0, again.stderr[-2000:]
    assert len(list((tmp_path / "predictions" / "pictures").glob("*.png"))) == 3


@needs_tools
def test_a_second_demo_goes_on_where_the_first_ended(finished):
    output, _ = finished
    result = _demo(output, "--iterations", "2", "--pictures", "0")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Starting training from iteration 1" in (output / "train.log").read_text()
    assert (output / "pictures").is_dir()


@needs_tools
def test_a_training_that_fails_is_quoted(tmp_path):
    result = _demo(tmp_path / "out", opts=["DATASETS.TRAIN", "('no_such_set',)"])
    assert result.returncode == 1
    assert "demo: train_net.py failed" in result.stderr
    assert "DATASETS.TRAIN names 'no_such_set'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--iterations", "0"], "--iterations is 0"),
        (["--pictures", "-1"], "--pictures is -1"),
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
