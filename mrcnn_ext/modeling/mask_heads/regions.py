# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The regions that a mask head sees: pooling of feature maps, and boxes with context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from torch import Tensor

from ...errors import ConfigError
from ..poolers import FusedROIPooler
from .point_sampling import generate_regular_grid_point_coords, point_sample

__all__ = [
    "check_names",
    "common_channels",
    "crop_context",
    "enlarge_boxes",
    "finest_first",
    "pooled_maps",
]


def pooled_maps(
    maps: dict[str, ShapeSpec],
    names: Sequence[str],
    resolution: int,
    *,
    key: str,
    beside: Sequence[str] = (),
    sampling_ratio: int = 0,
    pooler_type: str = "ROIAlignV2",
) -> tuple[list[str], FusedROIPooler]:
    """The feature maps that a mask head pools from, and the pooler over them.

    Args:
        maps: name -> shape of all maps that RoI heads hand to the head.
        names: those to pool from; empty: all.
        resolution: side of the pooled features.
        key: of the config, where the names are from; for errors.
        beside: maps that must have as many channels.
        sampling_ratio, pooler_type: as for ROIPooler.

    Returns:
        the names, finest first, and the pooler.

    Raises:
        ConfigError: a map does not exist, or the maps differ in channels.
    """
    names = finest_first(maps, names)
    common_channels(maps, [*names, *beside], key)
    pooler = FusedROIPooler(
        output_size=resolution,
        scales=[1.0 / maps[name].stride for name in names],
        sampling_ratio=sampling_ratio,
        pooler_type=pooler_type,
    )
    return names, pooler


def check_names(maps: dict[str, ShapeSpec], names: Sequence[str], key: str) -> None:
    """
    Raises:
        ConfigError: ``key`` names maps that do not exist.
    """
    unknown = [name for name in names if name not in maps]
    if unknown:
        raise ConfigError(f"{key} names {unknown}; MODEL.ROI_HEADS.IN_FEATURES has {list(maps)}.")


def common_channels(maps: dict[str, ShapeSpec], names: Sequence[str], key: str) -> int:
    """Channels of the maps ``names``.

    Raises:
        ConfigError: a map does not exist, or the maps differ in channels.
    """
    check_names(maps, names, key)
    channels = {maps[name].channels for name in names}
    if len(channels) != 1:
        raise ConfigError(
            f"{key} names {list(names)}, which have {sorted(channels)} channels; expected as many in "
            "each."
        )
    return channels.pop()


def finest_first(maps: dict[str, ShapeSpec], names: Sequence[str] = ()) -> list[str]:
    """``names``, or all maps, in the order of their strides; names that do not exist come last."""
    known = [name for name in sorted(maps, key=lambda n: maps[n].stride) if name in (names or maps)]
    return known + [name for name in names if name not in maps]


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
    """Cut masks of boxes enlarged by ``factor`` back to the boxes, at the same number of pixels.

    Args:
        masks: (R, 1, M, M) probabilities over enlarged boxes.

    Returns:
        (R, 1, M, M) over the boxes themselves, bilinear.
    """
    if factor == 1 or masks.shape[0] == 0:
        return masks
    grid = generate_regular_grid_point_coords(len(masks), masks.shape[-1], masks.device)
    points = (grid - 0.5) / factor + 0.5
    return point_sample(masks, points).view_as(masks).to(masks.dtype)
