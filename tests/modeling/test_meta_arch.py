# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""MrcnnExtRCNN is GeneralizedRCNN; and what it says about bad input."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes

from mrcnn_ext.data import shapes
from mrcnn_ext.errors import ConfigError, DataError
from tests.helpers import random_inputs, timm_cfg, train_step


def _pair():
    cfg = timm_cfg("resnet18", fpn=True)
    ours = build_model(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    stock = build_model(cfg)
    stock.load_state_dict(ours.state_dict(), strict=True)
    return cfg, ours, stock


def test_same_parameters_losses_and_predictions_as_generalized_rcnn(tmp_path):
    cfg, ours, stock = _pair()
    assert type(stock) is GeneralizedRCNN
    losses = []
    for model in (ours, stock):
        torch.manual_seed(0)  # sampling of anchors and proposals
        losses.append(train_step(model, random_inputs(cfg)))
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[0].items():
        assert value.item() == losses[1][key].item()
    outputs = []
    for model in (ours, stock):
        with torch.no_grad():
            outputs.append(model.eval()(random_inputs(cfg, number=1))[0]["instances"])
    assert len(outputs[0]) == len(outputs[1])
    assert torch.equal(outputs[0].pred_boxes.tensor, outputs[1].pred_boxes.tensor)
    assert torch.equal(outputs[0].pred_masks, outputs[1].pred_masks)


def test_trains_evaluates_and_survives_save_and_load(tmp_path):
    cfg, ours, _ = _pair()
    train_step(ours, random_inputs(cfg))
    DetectionCheckpointer(ours, str(tmp_path)).save("model")
    other = build_model(cfg)
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    for key, value in ours.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_shapes_keys_take_effect_when_the_model_is_built():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MRCNN_EXT.SHAPES.NUM_TRAIN = 2
    cfg.MRCNN_EXT.SHAPES.NUM_VAL = 1
    cfg.MRCNN_EXT.SHAPES.IMAGE_SIZE = 96
    try:
        build_model(cfg)
        records = DatasetCatalog.get("mrcnn_ext_shapes_train")
        assert len(records) == 2
        assert max(records[0]["height"], records[0]["width"]) == 96
    finally:
        shapes.configure_builtin_shapes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["MODEL.ROI_HEADS.NUM_CLASSES", 80], "NUM_CLASSES is 80, .* has 8 classes: ring, star"),
        (["MODEL.ROI_MASK_HEAD.NAME", "NoHead"], "MODEL.ROI_MASK_HEAD.NAME is 'NoHead'.*MaskRCNN"),
        (["MODEL.ROI_HEADS.NAME", "NoHeads"], "MODEL.ROI_HEADS.NAME is 'NoHeads'"),
        (["MODEL.ROI_BOX_HEAD.NAME", "Nope"], "MODEL.ROI_BOX_HEAD.NAME is 'Nope'"),
        (["MODEL.BACKBONE.NAME", "nope"], "MODEL.BACKBONE.NAME is 'nope'.*build_timm_fpn_backbone"),
        (
            ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NAME", "Nope"],
            "MODEL.ROI_KEYPOINT_HEAD.NAME is 'Nope'",
        ),
        (["MODEL.KEYPOINT_ON", True], "NUM_KEYPOINTS is 17, .* 11 keypoints: crown, neck"),
        (
            ["DATASETS.TRAIN", "('mrcnn_ext_shape_train',)"],
            "DATASETS.TRAIN names 'mrcnn_ext_shape_train'.*similar names: mrcnn_ext_shapes_train",
        ),
        (["MRCNN_EXT.SHAPES.IMAGE_SIZE", 10], r"MRCNN_EXT\.SHAPES\.IMAGE_SIZE\) is 10"),
    ],
)
def test_contradictions_are_found_when_the_model_is_built(changes, message):
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.merge_from_list(changes)
    with pytest.raises(ConfigError, match=message):
        build_model(cfg)


def test_class_counts_of_a_user_data_set_are_checked_too():
    name = "mrcnn_ext_test_two_classes"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).thing_classes = ["a", "b"]
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.DATASETS.TEST = (name,)
    try:
        with pytest.raises(ConfigError, match=r"'mrcnn_ext_test_two_classes' \(DATASETS.TEST\)"):
            build_model(cfg)
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def _nan_box(batch):
    boxes = batch[1]["instances"].gt_boxes.tensor.clone()
    boxes[1, 2] = float("nan")
    batch[1]["instances"].gt_boxes = Boxes(boxes)


def _class_out_of_range(batch):
    batch[0]["instances"].gt_classes[0] = 8


def _negative_class(batch):
    batch[0]["instances"].gt_classes[0] = -1


def _no_instances(batch):
    del batch[0]["instances"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nan_box, r"noise_1.jpg \(id 1\): ground-truth box 1 is \[50.0, 30.0, nan, 90.0\]"),
        (_class_out_of_range, r"noise_0.jpg \(id 0\): ground-truth class 8 is outside 0 … 7"),
        (_negative_class, "class -1 is outside"),
        (_no_instances, "no 'instances', which training needs"),
    ],
)
def test_bad_training_input_names_the_image(damage, message):
    cfg = timm_cfg("resnet18", fpn=True)
    batch = random_inputs(cfg)
    damage(batch)
    with pytest.raises(DataError, match=message):
        train_step(build_model(cfg), batch)


def test_the_check_can_be_switched_off():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MRCNN_EXT.CHECK_INPUTS = False
    batch = copy.deepcopy(random_inputs(cfg))
    _nan_box(batch)
    try:
        train_step(build_model(cfg), batch)
    except DataError:
        pytest.fail("checked although CHECK_INPUTS is off")
    except (AssertionError, FloatingPointError, RuntimeError, ValueError):
        pass  # Detectron2's own way of saying so
