# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Masks in ground-truth boxes: perfect masks score 100, a real model's are compared pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model
from pycocotools import mask as mask_util
from torch import nn

from mrcnn_ext.data import shapes
from mrcnn_ext.errors import DataError
from mrcnn_ext.evaluation import mask_quality_at_boxes
from mrcnn_ext.evaluation.results_file import ground_truth_of
from tests.helpers import timm_cfg

NAME = "mrcnn_ext_shapes_val"


@pytest.fixture
def cfg():
    cfg = timm_cfg("resnet18", fpn=True)
    shapes_cfg = cfg.MRCNN_EXT.SHAPES
    shapes_cfg.NUM_TRAIN, shapes_cfg.NUM_VAL, shapes_cfg.IMAGE_SIZE = 2, 3, 96
    return cfg


@pytest.fixture
def loader(cfg):
    shapes.configure_builtin_shapes(num_train=2, num_val=3, image_size=96)
    cfg.INPUT.MIN_SIZE_TEST = 128
    cfg.DATALOADER.NUM_WORKERS = 0
    yield build_detection_test_loader(cfg, NAME)
    shapes.configure_builtin_shapes()


class Perfect(nn.Module):
    """Answers with the ground truth's own masks, less some."""

    device = torch.device("cpu")

    def __init__(self, drop=0):
        super().__init__()
        self.truth = ground_truth_of(NAME)
        self.drop = drop

    def inference(self, batched_inputs, detected_instances):
        assert not self.training
        number = self.truth.image_number[batched_inputs[0]["image_id"]]
        entries = [e for e in self.truth.objects if e["image_id"] == number and not e["iscrowd"]]
        instances = detected_instances[0]
        assert len(instances) == len(entries)
        assert instances.pred_classes.tolist() == [e["category_id"] - 1 for e in entries]
        height, width = batched_inputs[0]["image"].shape[1:]
        assert instances.pred_boxes.tensor.max() <= max(height, width) + 1
        masks = [mask_util.decode(self.truth.rle(entry)) for entry in entries]
        instances.pred_masks = torch.from_numpy(np.stack(masks)).bool()
        return [{"instances": instances[self.drop :]}]


def test_perfect_masks(loader):
    model = Perfect().train()
    results = mask_quality_at_boxes(model, loader, NAME)
    assert model.training
    assert results["IoU"] == results["boundary_IoU"] == results["IoUs"] == pytest.approx(100)
    lost = mask_quality_at_boxes(Perfect(drop=1), loader, NAME)
    count = len(Perfect().truth.objects)
    assert lost["IoU"] == pytest.approx(100 * (1 - 3 / count))


def test_objects_without_a_mask(loader, monkeypatch):
    class Half(Perfect):
        def __init__(self):
            super().__init__()
            self.truth = lacking.for_masks()

    lacking = ground_truth_of(NAME)
    for entry in lacking.objects[::2]:
        entry["annotation"]["segmentation"] = []
    monkeypatch.setattr("mrcnn_ext.evaluation.at_true_boxes.ground_truth_of", lambda _: lacking)
    with pytest.raises(DataError, match=r"objects have no segmentation.*boxes_only=True leaves"):
        mask_quality_at_boxes(Half(), loader, NAME)
    results = mask_quality_at_boxes(Half(), loader, NAME, boxes_only=True)
    assert results["IoU"] == results["boundary_IoU"] == pytest.approx(100)


def test_a_real_model(cfg, loader):
    torch.manual_seed(0)
    results = mask_quality_at_boxes(build_model(cfg), loader, NAME)
    assert 0 < results["IoU"] < 100
    assert set(results) == {n + s for n in ("IoU", "boundary_IoU") for s in ("", "s", "m", "l")}


def test_another_data_set(loader):
    other = [[{"image_id": "not there", "image": torch.zeros(3, 9, 9), "height": 9, "width": 9}]]
    with pytest.raises(DataError, match="image id 'not there' is not in"):
        mask_quality_at_boxes(Perfect(), other, NAME)
    one = next(iter(loader))[0]
    one["height"] += 1

    class Larger(Perfect):
        def inference(self, batched_inputs, detected_instances):
            output = super().inference(batched_inputs, detected_instances)
            masks = output[0]["instances"].pred_masks
            output[0]["instances"].pred_masks = nn.functional.pad(masks, (0, 0, 0, 1))
            return output

    with pytest.raises(DataError, match=r"but the image in .* has"):
        mask_quality_at_boxes(Larger(), [[one]], NAME)
