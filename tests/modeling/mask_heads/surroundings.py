# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Where a mask head has to work: RoI heads, half precision, test-time augmentation, kinds of truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, GeneralizedRCNNWithTTA, build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from mrcnn_ext.errors import ConfigError
from tests.helpers import random_inputs, timm_cfg, train_step

CHANNELS = 16


def surroundings_cfg(name: str):
    """A small Mask R-CNN with a mask head of this package."""
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    if ROI_MASK_HEAD_REGISTRY.get(name).needs_maps:
        cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
    return cfg


def check_roi_heads(name: str, roi_heads: str, side: int) -> None:
    """Trains and predicts in RoI heads of that name; every parameter gets a gradient."""
    torch.manual_seed(0)
    cfg = surroundings_cfg(name)
    cfg.MODEL.ROI_HEADS.NAME = roi_heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in roi_heads  # which asks for it
    model = build_model(cfg)
    batch = random_inputs(cfg)
    losses = train_step(model, batch)
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.grad is not None for p in model.roi_heads.mask_head.parameters())
    with torch.no_grad():
        results = model.eval().inference(batch, do_postprocess=False)
    for result in results:
        assert result.pred_masks.shape == (5, 1, side, side)
        assert ((result.pred_masks >= 0) & (result.pred_masks <= 1)).all()
    with torch.no_grad():
        whole = model.eval()(batch[:1])[0]["instances"]
    assert whole.pred_masks.shape == (5, 96, 128)


def check_res5_is_refused(name: str) -> None:
    """For heads that need feature maps: C4 heads have none to give."""
    cfg = timm_cfg("resnet18", fpn=False)
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    for roi_heads in ("Res5ROIHeads", "MrcnnExtRes5ROIHeads"):
        cfg.MODEL.ROI_HEADS.NAME = roi_heads
        with pytest.raises(ConfigError, match=f"{name}.*Res5 heads"):
            build_model(cfg)


def check_test_time_augmentation(name: str, side: int) -> None:
    torch.manual_seed(0)
    cfg = surroundings_cfg(name)
    cfg.TEST.AUG.MIN_SIZES = (64, 96)
    model = build_model(cfg).eval()
    seen = []
    reduce = GeneralizedRCNNWithTTA._reduce_pred_masks

    class Recorded(GeneralizedRCNNWithTTA):
        def _reduce_pred_masks(self, outputs, tfms):
            seen.extend(output.pred_masks.shape[1:] for output in outputs)
            return reduce(self, outputs, tfms)

    (batch,) = random_inputs(cfg, number=1)
    with torch.no_grad():
        (result,) = Recorded(cfg, model)([batch])
    assert result["instances"].pred_masks.shape[1:] == (96, 128)
    assert seen == [(1, side, side)] * 4  # two sizes, each also flipped


def check_amp(name: str) -> None:
    """bfloat16 autocast: finite losses and gradients, probabilities."""
    head, maps = _head_and_maps(name)
    with torch.autocast("cpu", dtype=torch.bfloat16), EventStorage():
        losses = head.train()(maps, _truth(polygons=False))
        (found, nothing) = head.eval()(maps, _found())
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    assert ((found.pred_masks >= 0) & (found.pred_masks <= 1)).all()
    assert nothing.pred_masks.shape == (0, *found.pred_masks.shape[1:])


def check_polygons(name: str) -> None:
    """Polygons give about the losses of the same masks as bitmasks."""
    head, maps = _head_and_maps(name)
    losses = []
    for polygons in (False, True):
        torch.manual_seed(0)
        with EventStorage(), torch.no_grad():
            losses.append(head.train()(maps, _truth(polygons)))
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[0].items():
        assert float(losses[1][key]) == pytest.approx(float(value), rel=0.05), key


def _head_and_maps(name: str):
    torch.manual_seed(0)
    cfg = surroundings_cfg(name)
    shapes = {f"p{i}": ShapeSpec(channels=CHANNELS, stride=2**i) for i in range(2, 6)}
    maps = {
        key: torch.randn(2, CHANNELS, 128 // shape.stride, 128 // shape.stride)
        for key, shape in shapes.items()
    }
    return ROI_MASK_HEAD_REGISTRY.get(name)(cfg, shapes), maps


def _truth(polygons: bool) -> list[Instances]:
    """Two rectangles in the first image, one in the second, and boxes around them."""
    result = []
    for corners in ([[20.0, 30, 70, 100], [60, 10, 120, 50]], [[8.0, 8, 88, 88]]):
        x = Instances((128, 128))
        x.proposal_boxes = Boxes(torch.tensor(corners) + torch.tensor([-6.0, -5, 4, 7]))
        x.gt_classes = torch.arange(len(corners))
        if polygons:
            outlines = [np.array([a, b, c, b, c, d, a, d]) for a, b, c, d in corners]
            x.gt_masks = PolygonMasks([[outline] for outline in outlines])
        else:
            masks = torch.zeros(len(corners), 128, 128, dtype=torch.bool)
            for mask, (a, b, c, d) in zip(masks, np.array(corners, dtype=int)):
                mask[b:d, a:c] = True
            x.gt_masks = BitMasks(masks)
        result.append(x)
    return result


def _found() -> list[Instances]:
    """Two objects in the first image, none in the second."""
    some = Instances((128, 128), pred_boxes=Boxes(torch.tensor([[20.0, 30, 70, 100]] * 2)))
    some.pred_classes = torch.tensor([0, 7])
    return [some, some[:0]]
