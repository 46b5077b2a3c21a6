# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Every name that this package registers trains a step, evaluates, and survives save and load."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer

from mrcnn_ext import doctor
from mrcnn_ext.data import shapes
from tests.helpers import timm_cfg, train_step


def _c4():
    cfg = timm_cfg("resnet18", fpn=False)
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    return cfg


def _fpn():
    return timm_cfg("resnet18", fpn=True)


def _heads(base, kind):
    cfg = base()
    cfg.MODEL.ROI_HEADS.NAME = f"MrcnnExt{kind}ROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = kind == "Cascade"  # which asks for it
    return cfg


def _mask_head(name):
    cfg = _fpn()
    cfg.MODEL.ROI_HEADS.NAME = "MrcnnExtStandardROIHeads"
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    return cfg


def _keypoint_head(name):
    cfg = _fpn()
    cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.ROI_KEYPOINT_HEAD.NAME = name
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 11
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16]
    cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 0
    return cfg


# (config key, registered name) -> a config that uses it. A new name needs a line here.
CASES = {
    ("MODEL.META_ARCHITECTURE", "MrcnnExtRCNN"): _fpn,
    ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"): _fpn,
    ("MODEL.BACKBONE.NAME", "build_timm_backbone"): _c4,
    ("MODEL.ROI_HEADS.NAME", "MrcnnExtStandardROIHeads"): partial(_heads, _fpn, "Standard"),
    ("MODEL.ROI_HEADS.NAME", "MrcnnExtCascadeROIHeads"): partial(_heads, _fpn, "Cascade"),
    ("MODEL.ROI_HEADS.NAME", "MrcnnExtRes5ROIHeads"): partial(_heads, _c4, "Res5"),
    **{
        ("MODEL.ROI_MASK_HEAD.NAME", f"MrcnnExt{kind}MaskHead"): partial(
            _mask_head, f"MrcnnExt{kind}MaskHead"
        )
        for kind in ("FCN", "Wrapped", "Boundary", "Dynamic", "Deep", "PointRend", "Refine")
    },
    **{
        ("MODEL.ROI_KEYPOINT_HEAD.NAME", f"MrcnnExt{kind}KeypointHead"): partial(
            _keypoint_head, f"MrcnnExt{kind}KeypointHead"
        )
        for kind in ("Heatmap", "SimCC", "Regression")
    },
}


def test_every_registered_name_has_a_case():
    names, _ = doctor._registered()
    assert {(entry["key"], entry["name"]) for entry in names} == set(CASES)


@pytest.fixture
def tiny_set():
    sizes = {"num_train": 4, "num_val": 2, "image_size": 96}
    shapes.configure_builtin_shapes(**sizes)
    yield {f"MRCNN_EXT.SHAPES.{key.upper()}": value for key, value in sizes.items()}
    shapes.configure_builtin_shapes()


def _evaluate(model, cfg, folder):
    loader = build_detection_test_loader(cfg, cfg.DATASETS.TEST[0])
    tasks = ("bbox", "segm", "keypoints") if cfg.MODEL.KEYPOINT_ON else ("bbox", "segm")
    evaluator = COCOEvaluator(
        cfg.DATASETS.TEST[0],
        tasks=tasks,
        output_dir=str(folder),
        kpt_oks_sigmas=[0.05] * cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS,
    )
    return inference_on_dataset(model, loader, evaluator)


_LARGE = ("MrcnnExtRes5ROIHeads", "build_timm_backbone")


@pytest.mark.parametrize(
    ("key", "name"),
    [pytest.param(*c, marks=pytest.mark.slow) if c[1] in _LARGE else c for c in CASES],
)
def test_registered_name(key, name, tiny_set, tmp_path):
    cfg = CASES[key, name]()
    node = cfg
    for part in key.split("."):
        node = node[part]
    assert node == name
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    cfg.INPUT.MIN_SIZE_TEST = 96
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.merge_from_list([item for pair in tiny_set.items() for item in pair])

    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    before = {key: value.clone() for key, value in model.named_parameters()}
    losses = train_step(model, next(iter(DefaultTrainer.build_train_loader(cfg))))
    assert all(torch.isfinite(value) for value in losses.values())
    optimizer.step()
    trained = [key for key, value in model.named_parameters() if value.requires_grad]
    assert any((before[key] != value).any() for key, value in model.named_parameters())
    assert all(torch.equal(before[k], v) for k, v in model.named_parameters() if k not in trained)

    result = _evaluate(model, cfg, tmp_path / "first")
    assert {"bbox", "segm"} <= result.keys()
    assert "AP" in result["segm"]
    assert ("keypoints" in result) == cfg.MODEL.KEYPOINT_ON

    DetectionCheckpointer(model, str(tmp_path)).save("model")
    other = build_model(cfg)
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    _evaluate(other, cfg, tmp_path / "second")
    files = [tmp_path / run / "coco_instances_results.json" for run in ("first", "second")]
    assert files[0].read_text() == files[1].read_text() != "[]"
