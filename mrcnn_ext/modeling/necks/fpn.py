# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's FPN on a timm backbone."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from ...errors import ConfigError
from ..backbone.timm_backbone import TimmBackbone, warn_about_pixel_stats

__all__ = ["build_timm_fpn_backbone"]


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build a :class:`TimmBackbone` with Detectron2's FPN (Lin et al. 2017) on top.

    ``MODEL.FPN.IN_FEATURES`` chooses the maps, ``MODEL.FPN.{OUT_CHANNELS,NORM,FUSE_TYPE}`` mean what
    they mean for ResNet; outputs are p2 … p6.

    Raises:
        ConfigError: as :class:`TimmBackbone`, or a map in ``MODEL.FPN.IN_FEATURES`` is not returned.
    """
    bottom_up = TimmBackbone(cfg, input_shape)
    in_features = cfg.MODEL.FPN.IN_FEATURES
    missing = [f for f in in_features if f not in bottom_up.output_shape()]
    if missing or not in_features:
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES is {list(in_features)}, but MRCNN_EXT.TIMM.OUT_FEATURES is "
            f"{bottom_up._out_features}."
        )
    warn_about_pixel_stats(cfg, bottom_up.model_name)
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
