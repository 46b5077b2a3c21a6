# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Models of many bands as ONNX files, and their images in the runner."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from mrcnn_ext import export
from mrcnn_ext.deploy import ModelInput
from mrcnn_ext.deploy import onnx_runner as runner
from mrcnn_ext.deploy.metadata import metadata_of
from mrcnn_ext.errors import ConfigError
from tests.data.band_cases import pixels, use_bands, write, write_dataset
from tests.helpers import timm_cfg


@pytest.mark.parametrize("size", [(13, 17), (40, 61), (90, 52), (7, 300)])
def test_float_bands_are_resized_as_pillow_does_it(size):
    image = pixels(5, "float32", high=60000)
    ours = runner.resize_image(image, *size)
    for band in range(5):
        wide = Image.fromarray(image[..., band]).resize((size[1], image.shape[0]), Image.BILINEAR)
        expected = np.asarray(wide.resize(size[::-1], Image.BILINEAR))
        assert abs(ours[..., band] - expected).max() <= 60000 * 1e-6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bands")
    cfg = use_bands(timm_cfg("resnet18", fpn=True), [4, 0, 1, 2, 3], "uint16", mean=1e4, std=5e3)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.INPUT.MIN_SIZE_TEST = 0.0, 96
    cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5, 2
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    torch.manual_seed(0)
    built = build_model(cfg).eval()
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    torch.save({"model": built.state_dict()}, cfg.MODEL.WEIGHTS)
    (folder / "config.yaml").write_text(cfg.dump())
    return folder, built


def test_what_does_not_go_together():
    built = SimpleNamespace(
        roi_heads=SimpleNamespace(num_classes=2), pixel_mean=torch.zeros(5, 1, 1)
    )
    source = ModelInput(bands=[0, 1, 2, 3, 4], pixel_type="uint16")
    with pytest.raises(ConfigError, match="--resize-in-graph takes pictures of 3 bands"):
        metadata_of(built, source, resize=True)
    with pytest.raises(
        ConfigError, match=r"the model has 5 channels \(MODEL.PIXEL_MEAN\), but .* 3"
    ):
        metadata_of(built, ModelInput(), resize=False)


@pytest.mark.slow
def test_the_file_finds_what_the_model_finds(model, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    folder, _ = model
    _, images = write_dataset(tmp_path, scale=200)
    file = str(tmp_path / "m.onnx")
    command = ["--config-file", str(folder / "config.yaml"), "--output", file, "--classes", "a,b"]
    assert export.main([*command, "--check", images]) == 0, capsys.readouterr()
    assert "4 images" in capsys.readouterr().out
    onnx = runner.OnnxModel(file)
    assert onnx.info["bands"] == {
        "bands": [4, 0, 1, 2, 3], "pixel_type": "uint16", "rgb_bands": [],
    }  # fmt: skip
    image = np.asarray(pixels(5, "uint16", high=30000))
    found = onnx(image[..., [4, 0, 1, 2, 3]])
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    write(arrays / "a.npy", image)
    write(arrays / "b.npy", image[..., :3])
    out = tmp_path / "r.json"
    arguments = [file, str(arrays), "--output", str(out), "--score-threshold", "0"]
    assert runner.main(arguments) == 1
    assert (
        "b.npy: cannot be read; the model takes the bands [4, 0, 1, 2, 3]"
        in capsys.readouterr().err
    )
    records = json.loads(out.read_text())
    assert [r["score"] for r in records] == pytest.approx(found.scores.tolist(), abs=1e-6)
    for wrong in (image[..., :4], image.astype(np.int64)):
        with pytest.raises(runner.RunnerError, match="an image"):
            onnx(wrong)
