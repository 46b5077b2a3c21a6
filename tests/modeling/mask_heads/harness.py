# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""All mask heads of this package, and small configs, maps and instances to try them with."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from mrcnn_ext.modeling import FusedROIPooler
from tests.helpers import timm_cfg

# Name -> side of the masks for RoI features of 14 x 14. A new head needs a line here.
HEADS = {
    "MrcnnExtFCNMaskHead": 28,
    "MrcnnExtWrappedMaskHead": 28,
    "MrcnnExtBoundaryMaskHead": 28,
    "MrcnnExtDynamicMaskHead": 56,
    "MrcnnExtDeepMaskHead": 28,
    "MrcnnExtPointRendMaskHead": 112,
    "MrcnnExtRefineMaskHead": 112,
}
POOLING_HEADS = [name for name in HEADS if ROI_MASK_HEAD_REGISTRY.get(name).needs_maps]
CHANNELS = 16


def head_cfg(name: str, roi_heads: str = "MrcnnExtStandardROIHeads"):
    """A small Mask R-CNN with the mask head ``name``."""
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_HEADS.NAME = roi_heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in roi_heads  # which asks for it
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    if name in POOLING_HEADS and not roi_heads.startswith("MrcnnExt"):
        cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
    cfg.MRCNN_EXT.MASK_HEAD.SCORE_CONV_DIM = 8
    cfg.MRCNN_EXT.MASK_HEAD.SCORE_FC_DIM = 16
    cfg.MRCNN_EXT.MASK_HEAD.DYNAMIC.MAP_CONV_DIM = 16
    cfg.MRCNN_EXT.MASK_HEAD.DEEP.CONV_DIM = 8
    return cfg


def c4_cfg(name: str, roi_heads: str):
    """The same with C4 heads."""
    cfg = timm_cfg("resnet18", fpn=False)
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.ROI_HEADS.NAME = roi_heads
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    return cfg


def head_and_maps(name: str, *options):
    """A head that pools for itself, and maps p2 ... p5 of two images of 128 x 128."""
    torch.manual_seed(0)
    cfg = head_cfg(name)
    cfg.merge_from_list(list(options))
    shapes = {f"p{i}": ShapeSpec(channels=CHANNELS, stride=2**i) for i in range(2, 6)}
    maps = {
        key: torch.randn(2, CHANNELS, 128 // shape.stride, 128 // shape.stride)
        for key, shape in shapes.items()
    }
    return ROI_MASK_HEAD_REGISTRY.get(name)(cfg, shapes), maps


def lazy_head(kind: type, **arguments):
    """A small head, built as a LazyConfig builds it, for the maps of :func:`small_maps`."""
    arguments = {"input_shape": ShapeSpec(channels=6), "num_classes": 3, **arguments}
    return instantiate(LazyCall(kind)(**arguments))


def lazy_pooler(side: int, *strides: int, sampling_ratio: int = 0):
    """A pooler to ``side`` x ``side`` cells over maps of these strides, for LazyConfig."""
    scales = [1 / stride for stride in strides]
    return LazyCall(FusedROIPooler)(
        output_size=side, scales=scales, sampling_ratio=sampling_ratio, pooler_type="ROIAlignV2"
    )


def small_maps() -> dict[str, torch.Tensor]:
    """p2 and p3 of two images of 64 x 64, with 6 channels."""
    generator = torch.Generator().manual_seed(0)
    return {
        "p2": torch.randn(2, 6, 16, 16, generator=generator),
        "p3": torch.randn(2, 6, 8, 8, generator=generator),
    }


def ground_truth(polygons: bool = False) -> list[Instances]:
    """Two rectangles in the first image, one in the second, and boxes around them."""
    result = []
    for corners in ([[20.0, 30, 70, 100], [60, 10, 120, 50]], [[8.0, 8, 88, 88]]):
        x = Instances((128, 128), gt_boxes=Boxes(torch.tensor(corners)))
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


def detections() -> list[Instances]:
    """Two objects in the first image, none in the second."""
    some = Instances((128, 128), pred_boxes=Boxes(torch.tensor([[20.0, 30, 70, 100]] * 2)))
    some.pred_classes = torch.tensor([0, 7])
    return [some, some[:0]]
