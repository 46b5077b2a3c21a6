# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Contact sheets of training samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from PIL import Image

from mrcnn_ext.data import TrainingMapper, register_datasets
from mrcnn_ext.data.augmentation import CopyPaste
from mrcnn_ext.data.show import TrainingSamples, as_rgb
from mrcnn_ext.data.show.__main__ import main
from mrcnn_ext.errors import ConfigError
from tests.helpers import small_cfg

CONFIG = "Shapes/pose_Lite0_FPN_copy_paste.yaml"
TINY = ["MRCNN_EXT.SHAPES.NUM_TRAIN", "6", "MRCNN_EXT.SHAPES.IMAGE_SIZE", "96"]


def _size(file) -> tuple[int, int]:
    with Image.open(file) as image:
        image.load()
        return image.size


def test_a_sheet_and_a_row_for_each_augmentation(tmp_path, capsys):
    common = [CONFIG, "--side", "96", *TINY]
    assert main([*common, "--number", "5", "--columns", "3", "--out", str(tmp_path / "a.png")]) == 0
    width, height = _size(tmp_path / "a.png")
    assert (width, height) == (3 * 96 + 2 * 8, 2 * (96 + 26) + 8)
    assert main([*common, "--each", "--number", "2", "--output", str(tmp_path / "b.jpg")]) == 0
    width, height = _size(tmp_path / "b.jpg")
    assert width <= 3 * 96 + 2 * 8
    assert height > 3 * 80  # three augmentations
    assert "b.jpg: " in capsys.readouterr().out


def test_samples_are_those_of_the_loader_and_follow_the_seed():
    cfg = small_cfg()
    cfg.MRCNN_EXT.SHAPES.NUM_TRAIN, cfg.MRCNN_EXT.SHAPES.IMAGE_SIZE = 4, 64
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS = ["Noise", "CopyPaste", "HorizontalFlip"]
    samples = TrainingSamples.of_config(cfg)
    assert isinstance(samples.mapper, TrainingMapper)
    assert isinstance(samples.augmentations[1], CopyPaste)
    first, same, other = (samples.sample(0, seed)["image"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    plain = samples.only([])
    assert torch.equal(plain.sample(0, 1)["image"], plain.sample(0, 2)["image"])
    assert len(samples.augmentations) == 3


def test_any_mapper_can_be_shown():
    cfg = small_cfg()
    register_datasets(cfg)
    samples = TrainingSamples([{}], DatasetMapper(cfg, True))
    assert [type(step).__name__ for step in samples.augmentations] == [
        "ResizeShortestEdge", "RandomFlip",
    ]  # fmt: skip
    assert samples.only([]).mapper.augmentations.augs == []
    with pytest.raises(ConfigError, match="--each: function does not say"):
        _ = TrainingSamples([{}], lambda record: record).augmentations


@pytest.mark.slow
def test_a_lazy_config_is_shown(tmp_path):
    out = tmp_path / "lazy.png"
    config = "Shapes/mask_rcnn_Lite0_FPN_copy_paste.py"
    assert main([config, "--number", "2", "--out", str(out), "train.seed=1"]) == 0
    assert _size(out)[0] == 2 * 480 + 8


@pytest.mark.parametrize(
    ("image", "image_format", "expected"),
    [
        (np.array([1, 2, 3], np.uint8), "BGR", [3, 2, 1]),
        (np.array([1, 2, 3], np.uint8), "RGB", [1, 2, 3]),
        (np.array([7], np.uint8), "L", [7, 7, 7]),
        (np.array([1, 2, 3, 4], np.uint8), "RGBN", [1, 2, 3]),
        (np.array([0, 1000, 500], np.uint16), "RGB", [0, 255, 127]),
    ],
)
def test_pictures_to_look_at(image, image_format, expected):
    picture = as_rgb(image.reshape(-1, 1, 1), image_format)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == expected


def test_mistakes_are_one_line(tmp_path, capsys):
    assert main(["no_such.yaml"]) == 2
    assert "there is no file 'no_such.yaml'" in capsys.readouterr().err
    arguments = [CONFIG, *TINY, "MRCNN_EXT.DATA.AUGMENTATIONS", "['Blurr']"]
    assert main([*arguments, "--out", str(tmp_path / "c.png")]) == 2
    assert "AUGMENTATIONS[0] is 'Blurr'; similar: Blur" in capsys.readouterr().err
    folder = str(tmp_path / "a.png" / "b.png")
    (tmp_path / "a.png").write_text("")
    assert main([CONFIG, *TINY, "--number", "1", "--out", folder]) == 2
    assert f"show: --out {folder}: " in capsys.readouterr().err
    for wrong in (["--number", "0"], ["--out", "x.gif"], ["--seed", "-1"], ["--seed", str(2**32)]):
        with pytest.raises(SystemExit):
            main([CONFIG, *wrong])
        assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"x", "cannot identify"), ((9, 7), "SizeMismatchError")],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, capsys, content, message):
    file = tmp_path / "a.png"
    if isinstance(content, tuple):
        Image.new("RGB", content).save(file)
    elif content is not None:
        file.write_bytes(content)
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 0}
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 20}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{**annotation, "area": 25, "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]}],
    }
    (tmp_path / "data.json").write_text(json.dumps(data))
    name = f"unreadable_{message[:4].strip()}"
    sets = repr([[name, str(tmp_path / "data.json"), str(tmp_path)]])
    keys = ["MRCNN_EXT.DATA.DATASETS", sets, "DATASETS.TRAIN", f"('{name}',)"]
    keys += ["MRCNN_EXT.DATA.AUGMENTATIONS", "[]", "MODEL.KEYPOINT_ON", "False"]
    assert main([CONFIG, *keys, "--out", str(tmp_path / "sheet.png")]) == 2
    error = capsys.readouterr().err
    assert f"show: image {file}: " in error
    assert message in error
