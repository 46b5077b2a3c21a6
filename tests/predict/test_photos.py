# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The package's own model on photos: without any option, and in the demo."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mrcnn_ext.demo import show_photos
from mrcnn_ext.predict.__main__ import main
from mrcnn_ext.predict.photos import draw_photos, example_photos

pytest.importorskip("skimage")
pytest.importorskip("timm")


def test_predict_without_options_finds_the_person(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    astronaut = str(example_photos()[0])
    assert main([astronaut]) == 0
    out = capsys.readouterr().out
    assert "taking the package's own model person_pose_lite0 (persons: boxes, masks and 17" in out
    found = json.loads((tmp_path / "predictions" / "coco_results.json").read_text())
    assert len(found) == 1
    x, y, width, height = found[0]["bbox"]
    # She fills most of the left of the photo, 512 x 512: looked up by hand.
    assert x < 60
    assert y < 60
    assert 300 < width < 460
    assert height > 400
    assert sum(np.diff(found[0]["keypoints"][0::3]) != 0) > 10
    assert main([astronaut, "--weights", "x.pth"]) == 2


def test_the_demo_draws_photos_once_and_goes_on_without_them(tmp_path, monkeypatch):
    lines: list[str] = []
    console = SimpleNamespace(print=lambda text="", **kwargs: lines.append(text))
    output = tmp_path / "demo"
    output.mkdir()
    show_photos(output, console)
    assert any("astronaut.png  1 found" in line for line in lines)
    drawn = cv2.imread(str(output / "persons" / "astronaut.png"))
    photo = cv2.imread(str(example_photos()[0]))
    assert drawn.shape[0] >= photo.shape[0]
    lines.clear()
    show_photos(output, console)
    assert lines == []

    def missing(*arguments, **options):
        raise ImportError("timm is not installed")

    monkeypatch.setattr("mrcnn_ext.predict.photos.Predictor", missing)
    (tmp_path / "other").mkdir()
    show_photos(tmp_path / "other", console)
    assert lines[-1] == "  left out: timm is not installed"
    with pytest.raises(ImportError):
        list(draw_photos(example_photos(), tmp_path))
