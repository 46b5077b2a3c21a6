# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Where a mask head looks: its own pooling of feature maps, and regions larger than boxes."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn import functional as F

from ...config.aliases import first_set
from ...errors import ConfigError
from ..poolers import FusedROIPooler

__all__ = [
    "IN_FEATURES_KEYS",
    "build_region_pooler",
    "crop_context",
    "enlarge_boxes",
    "finest_first",
    "region_features",
]

IN_FEATURES_KEYS = ("MRCNN_EXT.MASK_HEAD.IN_FEATURES", "MRCNN_EXT.MASK_HEAD.POOLER_LEVELS")


def build_region_pooler(
    maps: dict[str, ShapeSpec],
    in_features: list[str],
    resolution: int,
    sampling_ratio: int = 0,
    pooler_type: str = "ROIAlignV2",
) -> FusedROIPooler:
    """A pooler over some of the feature maps that RoI heads hand to a mask head.

    Args:
        maps: name -> shape of all maps there are.
        in_features: names of those to pool from.
        resolution: side of the result.
        sampling_ratio, pooler_type: as for ROIPooler.

    Raises:
        ConfigError: a name that is not there.
    """
    missing = [name for name in in_features if name not in maps]
    if missing:
        raise ConfigError(
            f"a mask head is to pool from {missing}, but MODEL.ROI_HEADS.IN_FEATURES gives it "
            f"{list(maps)}."
        )
    scales = [1.0 / maps[name].stride for name in in_features]
    return FusedROIPooler(
        output_size=resolution,
        scales=scales,
        sampling_ratio=sampling_ratio,
        pooler_type=pooler_type,
    )


def region_features(cfg, maps: dict[str, ShapeSpec]) -> list[str]:
    """Names of the maps that the head pools from, finest first."""
    key, names = first_set(cfg, *IN_FEATURES_KEYS)
    names = names or list(maps)
    unknown = [name for name in names if name not in maps]
    if unknown:
        raise ConfigError(f"{key} names {unknown}; MODEL.ROI_HEADS.IN_FEATURES has {list(maps)}.")
    return [name for name in finest_first(maps) if name in names]


def finest_first(maps: dict[str, ShapeSpec]) -> list[str]:
    """Names of feature maps in the order of their strides."""
    return sorted(maps, key=lambda name: maps[name].stride)


def enlarge_boxes(boxes: list[Boxes], factor: float) -> list[Boxes]:
    """Boxes with the same centres and ``factor`` times the sides, not clipped."""
    if factor == 1:
        return boxes
    result = []
    for item in boxes:
        centre = (item.tensor[:, :2] + item.tensor[:, 2:]) / 2
        half = (item.tensor[:, 2:] - item.tensor[:, :2]) * (factor / 2)
        result.append(Boxes(torch.cat([centre - half, centre + half], dim=1)))
    return result


def crop_context(masks: Tensor, factor: float) -> Tensor:
    """The middle of masks that cover ``factor`` times the box, at the same number of pixels.

    Args:
        masks: (R, 1, M, M) probabilities over enlarged boxes.

    Returns:
        (R, 1, M, M) over the boxes themselves, bilinear.
    """
    if factor == 1 or masks.shape[0] == 0:
        return masks
    theta = masks.new_tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(masks), 2, 3)
    grid = F.affine_grid(theta, list(masks.shape), align_corners=False)
    return F.grid_sample(masks, grid, padding_mode="border", align_corners=False)
