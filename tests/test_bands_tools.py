# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""TIFFs of five bands with 16 bits from the config to predictions, in real processes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from mrcnn_ext.data.stats.__main__ import main as stats
from tests.data.band_cases import write, write_dataset
from tests.helpers import REPO, run_python, tool
from tests.test_tools import HOOK, LAZY, TINY, YAML, _ok

pytestmark = pytest.mark.slow

STEM = "backbone.bottom_up.body.conv_stem.weight"


def _opts(folder, output, *more) -> list:
    """Two steps on a set of five bands, from ImageNet's weights for three."""
    train, images = write_dataset(folder / "set", scale=200)
    sets = f"[['b_train', '{train}', '{images}'], ['b_val', '{train}', '{images}']]"
    return [
        *TINY, "MODEL.WEIGHTS", "timm://tf_efficientnet_lite0@package",
        "MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.BACKBONE.FREEZE_AT", "0",
        "MODEL.PIXEL_MEAN", "[9000.0,15000.0,9000.0,15000.0,9000.0]",
        "MODEL.PIXEL_STD", "[5000.0,6000.0,5000.0,6000.0,5000.0]",
        "MRCNN_EXT.DATA.DATASETS", sets,
        "DATASETS.TRAIN", "('b_train',)", "DATASETS.TEST", "('b_val',)",
        "MRCNN_EXT.DATA.BANDS", "[0, 1, 2, 3, 4]", "MRCNN_EXT.DATA.PIXEL_TYPE", "uint16",
        "MRCNN_EXT.DATA.RGB_BANDS", "[2, 1, 0]",
        "MRCNN_EXT.DATA.AUGMENTATIONS", "['Default', ['Noise', {'deviation': [0, 200]}]]",
        "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0", "OUTPUT_DIR", output, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def by_train_net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train_net")
    command = ["-W", "ignore", tool("train_net.py"), "--config-file", YAML]
    more = ["MRCNN_EXT.DATA.FIRST_CONVOLUTION", "copy", "MRCNN_EXT.LOG.IMAGES", "1"]
    result = run_python([*command, *_opts(folder, folder / "out", *more)], env=HOOK, timeout=900)
    return folder, _ok(result)


def test_train_net_trains_and_evaluates(by_train_net):
    folder, text = by_train_net
    assert "the filters of red, green, blue for 2, 1, 0, their mean for others, times 3/5" in text
    assert text.count("made from the file's") == 1
    assert "copypaste: Task: segm" in text
    assert "cannot be made" not in text  # the pictures for the log
    weights = torch.load(folder / "out" / "model_final.pth", weights_only=True)["model"]
    assert weights[STEM].shape[1] == 5
    assert weights[STEM].isfinite().all()


def test_train_net_evaluates_alone(by_train_net, tmp_path):
    folder, _ = by_train_net
    command = [
        "-W",
        "ignore",
        tool("train_net.py"),
        "--config-file",
        folder / "out" / "config.yaml",
    ]
    more = ["MODEL.WEIGHTS", folder / "out" / "model_final.pth", "OUTPUT_DIR", tmp_path]
    text = _ok(run_python([*command, "--eval-only", *more], env=HOOK, timeout=900))
    assert "copypaste: Task: segm" in text
    assert "made from the file's" not in text


def test_our_command_trains_predicts_and_checks(tmp_path):
    opts = _opts(tmp_path, tmp_path / "out")
    command = ["-W", "ignore", "-m", "mrcnn_ext.train", "--config-file", YAML]
    text = _ok(run_python([*command, *opts], timeout=900))
    assert "the mean of the filters for each, times 3/5" in text
    config = ["--config-file", tmp_path / "out" / "config.yaml"]
    _ok(run_python(["-m", "mrcnn_ext.data.check", *config], timeout=900))
    images = tmp_path / "set" / "images"
    import tifffile

    write(images / "3.npy", tifffile.imread(images / "3.tif"))
    weights = ["--weights", tmp_path / "out" / "model_final.pth", "--score-threshold", "0"]
    predict = ["-W", "ignore", "-m", "mrcnn_ext.predict", *config, *weights, images]
    _ok(run_python([*predict, "--output", tmp_path / "p"], timeout=900))
    lines = (tmp_path / "p" / "coco_results.jsonl").read_text().splitlines()
    found = {(e := json.loads(line))["file"]: e["results"] for line in lines}
    assert sorted(found) == ["0.tif", "1.tif", "2.tif", "3.npy", "3.tif"]
    # The same values from another format
    assert [r["bbox"] for r in found["3.npy"]] == [r["bbox"] for r in found["3.tif"]]
    assert found["3.tif"]
    assert (tmp_path / "p" / "pictures" / "3.npy.png").is_file()
    # One file of another kind is left out with one line.
    write(images / "4.tif", np.zeros((64, 80, 3), np.uint16))
    result = run_python([*predict, "--output", tmp_path / "q"], timeout=900)
    assert result.returncode == 1
    assert "4.tif: has 3 bands, but MRCNN_EXT.DATA.BANDS is [0, 1, 2, 3, 4]" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_mistakes_are_one_message(tmp_path):
    opts = _opts(tmp_path, tmp_path / "out")
    command = ["-W", "ignore", "-m", "mrcnn_ext.train", "--config-file", YAML]
    for change, words in (
        (["MODEL.PIXEL_MEAN", "[1.0, 2.0]"], "MODEL.PIXEL_MEAN has 2 numbers"),
        (["MRCNN_EXT.DATA.PIXEL_TYPE", "uint8"], ".tif: has pixels of uint16"),
        (["MRCNN_EXT.DATA.AUGMENTATIONS", "['Colour']"], "AUGMENTATIONS: Colour changes the"),
    ):  # fmt: skip
        result = run_python([*command, *opts, *change], timeout=900)
        text = result.stdout + result.stderr
        assert result.returncode == 1, text
        assert words in text.replace("1.tif", "0.tif").replace("2.tif", "0.tif").replace(
            "3.tif", "0.tif"
        )
        assert "Traceback" not in text, text


@pytest.mark.parametrize("by", ["ours", "theirs"])
def test_a_lazy_config(tmp_path, by):
    train, images = write_dataset(tmp_path / "set", scale=200)
    (tmp_path / "mine.py").write_text(
        "from detectron2.config import LazyConfig, LazyCall as L\n"
        "from mrcnn_ext.data import TrainingMapper, build_train_loader, register_coco\n"
        f"register_coco('lazy_bands', {train!r}, {images!r})\n"
        f"cfg = LazyConfig.load({str(LAZY)!r})\n"
        "model, dataloader, train = cfg.model, cfg.dataloader, cfg.train\n"
        "optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier\n"
        "dataloader.train.dataset.names = 'lazy_bands'\n"
        "dataloader.test.dataset.names = 'lazy_bands'\n"
        "dataloader.train.mapper._target_ = dataloader.test.mapper._target_ = TrainingMapper\n"
        "dataloader.train.mapper.bands = dataloader.test.mapper.bands = [0, 1, 2, 3, 4]\n"
        "dataloader.train.mapper.pixel_type = dataloader.test.mapper.pixel_type = 'uint16'\n"
        "model.pixel_mean, model.pixel_std = [12000.0] * 5, [6000.0] * 5\n"
        "model.backbone.bottom_up.in_channels = 5\n"
        "model.roi_heads.num_classes = 2\n"
    )
    tiny = [
        "dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0", "train.max_iter=2", "train.eval_period=2",
        f"train.output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    command = ["-m", "mrcnn_ext.train"] if by == "ours" else [tool("lazyconfig_train_net.py")]
    if by == "theirs":  # whose checkpointer leaves the layer random
        tiny += ["train.init_checkpoint=''"]
    result = run_python(
        ["-W", "ignore", *command, "--config-file", tmp_path / "mine.py", *tiny],
        env={**HOOK, "PYTHONPATH": str(REPO)}, timeout=900,
    )  # fmt: skip
    text = _ok(result)
    assert "copypaste: Task: segm" in text
    assert ("the mean of the filters for each, times 3/5" in text) == (by == "ours")


def test_a_config_that_is_made_trains(tmp_path):
    train, images = write_dataset(tmp_path / "set", scale=200, number=6)
    made = tmp_path / "config.yaml"
    _ok(run_python(["-m", "mrcnn_ext.data.config", train, "--images", images, "--test", train,
                    "--device", "cpu", "--out", made], timeout=900))  # fmt: skip
    assert 'PIXEL_TYPE: "uint16"' in made.read_text()
    tiny = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0"]
    command = ["-W", "ignore", "-m", "mrcnn_ext.train", "--config-file", made, *tiny]
    text = _ok(run_python([*command, "OUTPUT_DIR", tmp_path / "out"], timeout=900))
    assert "copypaste: Task: segm" in text
    shutil.rmtree(tmp_path / "out")
    assert stats([train, "--images", images]) == 0
