# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Validation pictures: which, when, and that training does not notice."""

from __future__ import annotations

import random
import types

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import nn

from mrcnn_ext.engine import build_picture_hook, spread_records
from tests.helpers import small_cfg

NAME = "mrcnn_ext_test_pictures"


@pytest.fixture
def dataset(tmp_path):
    records = []
    for index in range(7):
        file = tmp_path / f"scene{index}.png"
        Image.new("RGB", (64, 48), (30 * index, 90, 60)).save(file)
        box = {"bbox": [5, 6, 30, 40], "bbox_mode": 0, "category_id": 0, "iscrowd": 0}
        polygon = [5.0, 6.0, 30.0, 6.0, 30.0, 40.0]
        annotations = [{**box, "segmentation": [polygon]}] if index else []
        records.append(
            {"file_name": str(file), "image_id": index, "height": 48, "width": 64,
             "annotations": annotations}
        )  # fmt: skip
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(thing_classes=["thing"])
    yield records
    DatasetCatalog.pop(NAME)
    MetadataCatalog.pop(NAME)


class _Model(nn.Module):
    """Finds one object, draws random numbers, and notes the mode that it is in."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.Dropout().eval()
        self.modes = []

    def forward(self, batch):
        self.modes.append(self.training)
        random.random(), np.random.rand(), torch.rand(1)
        self.norm(batch[0]["image"][None].float())
        size = batch[0]["height"], batch[0]["width"]
        masks = torch.zeros(1, *size, dtype=torch.bool)
        masks[:, 10:30, 10:30] = True
        found = Instances(size, pred_boxes=Boxes(torch.tensor([[10.0, 10, 30, 30]])))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        found.pred_masks = masks
        return [{"instances": found}]


def _hook(number=3, period=2, **trainer):
    cfg = small_cfg()
    cfg.DATASETS.TEST = (NAME,)
    cfg.TEST.EVAL_PERIOD = period
    cfg.INPUT.MIN_SIZE_TEST = 48
    cfg.MRCNN_EXT.LOG.IMAGES = number
    model = _Model()
    hook = build_picture_hook(cfg, model)
    hook.trainer = types.SimpleNamespace(iter=0, max_iter=4, storage=EventStorage(), **trainer)
    return hook, model


def test_the_same_images_are_drawn_after_each_evaluation(dataset):
    hook, model = _hook()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    for hook.trainer.iter in range(4):
        hook.trainer.storage.iter = hook.trainer.iter
        hook.after_step()
    hook.after_train()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert model.modes == [False] * 6
    assert [m.training for m in model.modules()] == [True, True, False]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    drawn = hook.trainer.storage._vis_data
    names = [name for name, _, _ in drawn]
    assert names == 2 * [f"validation/{i}_scene{s}" for i, s in enumerate((1, 3, 5))]
    assert [iteration for _, _, iteration in drawn] == [1, 1, 1, 3, 3, 3]
    picture = drawn[0][1]
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 3
    assert picture.shape[2] > 2 * picture.shape[1] * 0.9  # truth and prediction side by side
    assert np.array_equal(picture, drawn[3][1])
    assert not np.array_equal(picture, drawn[1][1])


def test_images_without_annotations(dataset):
    for record in dataset:
        record["annotations"] = []
    hook, _ = _hook(number=9)
    hook.draw()
    drawn = hook.trainer.storage._vis_data
    assert len(drawn) == 7
    assert drawn[0][1].shape[1:] == (480, 640)
    assert len(spread_records(NAME, 2)) == 2


def test_an_image_that_is_gone_costs_a_warning(dataset, caplog):
    hook, model = _hook()
    dataset[1]["file_name"] += ".gone"
    hook.draw()
    hook.draw()
    assert caplog.text.count("Validation pictures for the log cannot be made") == 1
    assert model.training


def test_nothing_to_draw(caplog):
    cfg = small_cfg()
    assert build_picture_hook(cfg, _Model()) is None
    cfg.MRCNN_EXT.LOG.IMAGES = 2
    cfg.DATASETS.TEST = ()
    assert build_picture_hook(cfg, _Model()) is None
    assert "LOG.IMAGES is 2, but DATASETS.TEST is empty" in caplog.text
