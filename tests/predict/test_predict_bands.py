# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions on chosen bands are those on a picture of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from omegaconf import OmegaConf

from mrcnn_ext.data import TrainingMapper
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.predict.__main__ import main
from mrcnn_ext.predict.predictor import Predictor, reader_of
from mrcnn_ext.predict.sources import find_sources
from tests.data.band_cases import pixels, write
from tests.predict.conftest import write_clip


def _run(cfg, folder, inputs, name) -> tuple[int, dict]:
    (folder / f"{name}.yaml").write_text(cfg.dump())
    arguments = ["--config-file", str(folder / f"{name}.yaml"), *map(str, inputs)]
    code = main([*arguments, "--output", str(folder / name), "--score-threshold", "0"])
    lines = (folder / name / "coco_results.jsonl").read_text().splitlines()
    found = {(entry := json.loads(line))["file"]: entry["results"] for line in lines}
    drop = ("image_id",)
    return code, {
        key.rpartition(".")[0] or key: [
            {k: v for k, v in r.items() if k not in drop} for r in results
        ]
        for key, results in found.items()
    }


@pytest.fixture
def cfgs(trained):
    """A model for pictures, and the same weights for three of five bands."""
    _, cfg = trained
    plain, by_band = cfg.clone(), cfg.clone()
    plain.INPUT.FORMAT = "RGB"
    by_band.MRCNN_EXT.DATA.BANDS = [3, 0, 4]
    return plain, by_band


@pytest.mark.slow
def test_bands_of_files_are_those_of_a_picture_bit_for_bit(cfgs, tmp_path):
    plain, by_band = cfgs
    folders = {kind: tmp_path / kind for kind in ("png", "tif", "npy")}
    for kind, folder in folders.items():
        folder.mkdir()
        for index in range(2):
            image = pixels(5, high=250, seed=index, size=(80, 110))
            write(folder / f"{index}.{kind}", image[..., [3, 0, 4]] if kind == "png" else image)
    write(folders["png"] / "unread.npy", np.zeros((4, 4), np.uint8))  # not an image of this model
    code, expected = _run(plain, tmp_path, [folders["png"]], "p")
    assert code == 0
    assert all(expected.values())
    for kind in ("tif", "npy"):
        code, found = _run(by_band, tmp_path, [folders[kind]], kind + "_")
        assert (code, found) == (0, expected)
        assert (tmp_path / f"{kind}_" / "pictures" / f"0.{kind}.png").is_file()


def test_the_predictor_finds_in_bands_what_it_finds_in_a_picture(cfgs, tmp_path):
    image = pixels(5, high=250, size=(80, 110))
    plain, by_band = (Predictor(cfg, device="cpu", optimized=False) for cfg in cfgs)
    expected = plain(np.ascontiguousarray(image[..., [4, 0, 3]]))["instances"]  # BGR
    for suffix in ("tif", "npy"):
        path = write(tmp_path / f"a.{suffix}", image)
        found = by_band(by_band.reader(path))["instances"]
        assert len(found) == len(expected) > 0
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(torch.as_tensor(found.pred_masks), torch.as_tensor(expected.pred_masks))


@pytest.mark.slow
def test_files_of_another_kind_are_left_out(cfgs, tmp_path, capsys):
    _, by_band = cfgs
    write(tmp_path / "a.tif", pixels(5))
    write(tmp_path / "b.tif", pixels(4))
    write(tmp_path / "c.tif", pixels(5, "uint16"))
    write_clip(tmp_path / "d.mp4", 2)
    inputs = [tmp_path / name for name in ("a.tif", "b.tif", "c.tif", "d.mp4")]
    code, found = _run(by_band, tmp_path, inputs, "out")
    assert (code, list(found)) == (1, ["a"])
    text = capsys.readouterr().err
    assert "b.tif: has 4 bands, but MRCNN_EXT.DATA.BANDS is [3, 0, 4]" in text
    assert "c.tif: has pixels of uint16, but MRCNN_EXT.DATA.PIXEL_TYPE is 'uint8'" in text
    assert "d.mp4: a video has 3 bands of uint8" in text


@pytest.mark.slow
def test_videos_of_chosen_bands(trained, tmp_path):
    cfg = trained[1].clone()
    write_clip(tmp_path / "d.mp4", 2)
    _, expected = _run(cfg, tmp_path, [tmp_path / "d.mp4"], "plain")  # BGR
    cfg.MRCNN_EXT.DATA.BANDS = [2, 1, 0]
    _, found = _run(cfg, tmp_path, [tmp_path / "d.mp4"], "by_band")
    assert found == expected


@pytest.mark.slow
def test_float_images_go_through_the_predictor(trained):
    cfg = trained[1].clone()
    cfg.MRCNN_EXT.DATA.BANDS, cfg.MRCNN_EXT.DATA.PIXEL_TYPE = [2, 1, 0], "float32"
    predictor, image = Predictor(cfg, device="cpu"), pixels(3, "float32", size=(96, 128))
    plain = Predictor(trained[1], device="cpu")  # BGR
    found, expected = predictor(image), plain(image.astype(np.uint8).copy())
    assert predictor.reader.by_band
    a, b = (out["instances"].pred_boxes.tensor for out in (found, expected))
    assert a.shape == b.shape
    same = predictor(np.floor(image))["instances"]  # no resizing at this size: the same numbers
    assert torch.equal(same.pred_boxes.tensor, b)


def test_what_a_lazy_config_says():
    mapper = L(TrainingMapper)(
        is_train=False, image_format="RGB", augmentations=[L(T.Resize)(shape=9)], bands=[3, 1],
        pixel_type="uint16",
    )  # fmt: skip
    cfg = OmegaConf.create(
        {"dataloader": {"test": {"mapper": mapper}}}, flags={"allow_objects": True}
    )
    reader = reader_of(cfg)
    assert (reader.bands, reader.pixel_type, reader.rgb_bands) == ((3, 1), "uint16", ())
    cfg.dataloader.test.mapper.pixel_type = "wide"
    with pytest.raises(ConfigError, match="the mapper's pixel_type is 'wide'"):
        reader_of(cfg)


def test_npy_files_of_a_folder_are_asked_for(tmp_path):
    write(tmp_path / "a.npy", pixels(2))
    write(tmp_path / "b.png", pixels(3))
    assert [s.name for s in find_sources([str(tmp_path)])] == ["b.png"]
    assert [s.name for s in find_sources([str(tmp_path)], arrays=True)] == ["a.npy", "b.png"]
