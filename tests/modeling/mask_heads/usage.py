# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What every mask head that pools for itself must bear: RoI heads, autocast, test-time augmentation."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNNWithTTA, build_mask_head, build_model
from detectron2.utils.events import EventStorage

from mrcnn_ext.errors import ConfigError
from tests.helpers import random_inputs, timm_cfg, train_step

__all__ = ["check_use", "check_words_of_res5_heads", "head_cfg"]


def head_cfg(name: str):
    """A small Mask R-CNN with the head ``name``, which gets feature maps."""
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
    cfg.MRCNN_EXT.MASK_HEAD.DYNAMIC.MAP_CONV_DIM = 16
    cfg.MRCNN_EXT.MASK_HEAD.DEEP.CONV_DIM = 8
    return cfg


def check_use(name: str, roi_heads: str) -> None:
    """Train a step and predict in ``roi_heads``; then under autocast and with augmentation at test."""
    cfg = head_cfg(name)
    cfg.MODEL.ROI_HEADS.NAME = roi_heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in roi_heads
    cfg.TEST.AUG.MIN_SIZES = (80, 96)
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    torch.manual_seed(0)
    model = build_model(cfg)
    batch = random_inputs(cfg)
    losses = train_step(model, batch)
    assert losses["loss_mask"] > 0
    assert sum(float(p.grad.abs().sum()) for p in model.roi_heads.mask_head.parameters()) > 0

    model.eval()
    with torch.no_grad():
        results = [item["instances"] for item in model(batch)]
    assert all(x.pred_masks.shape == (len(x), 96, 128) for x in results)
    if roi_heads == "StandardROIHeads":
        _check_autocast(model, batch)
        with torch.no_grad():
            (result,) = GeneralizedRCNNWithTTA(cfg, model)(batch[:1])
        assert len(result["instances"]) > 0
        assert result["instances"].pred_masks.shape[1:] == (96, 128)


def _check_autocast(model, batch) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for x in model.inference(batch, do_postprocess=False):
            assert torch.isfinite(x.pred_masks.float()).all()
        model.train()
        with EventStorage():
            losses = model(batch)
        model.eval()
    assert all(torch.isfinite(value) for value in losses.values())


def check_words_of_res5_heads(name: str) -> None:
    """C4 heads hand over RoI features, with which these heads can do nothing: the error says so."""
    cfg = timm_cfg("resnet18", fpn=False)
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    for pooler_type in ("ROIAlignV2", ""):
        cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = pooler_type
        with pytest.raises(ConfigError, match=rf"{name}.*POOLER_TYPE.*Res5"):
            build_model(cfg)
    with pytest.raises(ConfigError, match="POOLER_TYPE"):
        build_mask_head(cfg, ShapeSpec(channels=8, width=14, height=14))
