# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from tests.helpers import timm_cfg


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """A config file and weights of a small model that finds something everywhere."""
    folder = tmp_path_factory.mktemp("model")
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.INPUT.MIN_SIZE_TEST = 96
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    (folder / "config.yaml").write_text(cfg.dump())
    return folder / "config.yaml", cfg


def noise(seed: int, height: int = 80, width: int = 120) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path):
    """A folder with sub-folders, two images of one name, and something that is no image."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    cv2.imwrite(str(root / "a.png"), noise(0))
    cv2.imwrite(str(root / "more" / "a.png"), noise(1, 100, 90))
    cv2.imwrite(str(root / "b.jpg"), noise(2))
    (root / "notes.txt").write_text("no image")
    return root


def write_clip(file, frames: int) -> None:
    """A video of noise of 120 x 80 pixels, 10 frames a second; skips where OpenCV cannot write it."""
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10, (120, 80))
    if not video.isOpened():
        pytest.skip("this OpenCV cannot write mp4")
    for seed in range(frames):
        video.write(noise(seed))
    video.release()
