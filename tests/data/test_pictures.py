# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures that Detectron2 reads wrongly are found, all others are not."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from mrcnn_ext.data.pictures import picture_problem

GREY = np.arange(30 * 40).reshape(30, 40) * 50
COLOR = np.dstack([GREY % 256] * 3).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "values", "what"),
    [
        ("a.png", GREY.astype(np.uint16), "holds 16-bit grey values"),
        ("a.tif", GREY.astype(np.uint16), "holds 16-bit grey values"),
        ("a.tif", GREY.astype(np.int32), "holds 32-bit grey values"),
        ("a.tif", (GREY / GREY.max()).astype(np.float32), "holds floating-point grey values"),
    ],
)
def test_deep_grey_is_read_wrongly_and_found(tmp_path, name, values, what):
    Image.fromarray(values).save(tmp_path / name)
    read = read_image(str(tmp_path / name), "L")[..., 0].astype(float)
    assert np.corrcoef(read.ravel(), values.ravel())[0, 1] < 0.9 or len(np.unique(read)) < 3
    problem = picture_problem(tmp_path / name)
    assert problem.startswith(what)
    assert "save it with 8 bits" in problem


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
def test_usual_pictures_have_no_problem(tmp_path, mode):
    name = "a.jpg" if mode == "CMYK" else "a.png"
    Image.fromarray(COLOR).convert(mode).save(tmp_path / name)
    assert picture_problem(tmp_path / name) is None


def test_pages_are_counted_without_smaller_copies(tmp_path):
    pages = [Image.fromarray(COLOR + np.uint8(i)) for i in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert picture_problem(tmp_path / "pages.tif").startswith("has 3 pages, of which")
    small = Image.fromarray(COLOR[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(tmp_path / "pyramid.tif", save_all=True, append_images=[small])
    with Image.open(tmp_path / "pyramid.tif") as image:
        assert image.n_frames == 2
    assert picture_problem(tmp_path / "pyramid.tif") is None


def test_more_pixels_than_pillow_opens(tmp_path, monkeypatch):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(Image.DecompressionBombError):
        read_image(str(tmp_path / "a.png"), "RGB")
    assert "million pixels that Pillow opens: reduce it" in picture_problem(tmp_path / "a.png")


def test_what_cannot_be_opened_is_left_to_the_reader(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert picture_problem(tmp_path / "a.png") is None
    assert picture_problem(tmp_path / "missing.png") is None
