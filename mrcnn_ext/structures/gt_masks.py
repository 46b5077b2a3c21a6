# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ground-truth masks of a batch in structures with shared storage, and mask targets from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from .indexed_bitmasks import IndexedBitMasks
from .packed_polygons import PackedPolygonMasks

__all__ = ["mask_targets", "pack_gt_masks"]

T = TypeVar("T", Instances, "list[Instances]")


def pack_gt_masks(instances: T) -> T:
    """Convert ``gt_masks`` to this package's structures, which work in place of Detectron2's.

    PolygonMasks become :class:`PackedPolygonMasks`, BitMasks :class:`IndexedBitMasks`; other types
    stay, and so do other subclasses.

    Args:
        instances: of one image, or a list of them. They are not changed.

    Returns:
        Instances with the same fields, but for ``gt_masks``; the same object if nothing changes.

    Raises:
        ValueError: a polygon with a coordinate that is not finite.
    """
    if isinstance(instances, list):
        return [pack_gt_masks(item) for item in instances]
    masks = instances.get("gt_masks") if instances.has("gt_masks") else None
    if type(masks) is PolygonMasks:
        masks = PackedPolygonMasks.from_polygon_masks(masks)
    elif type(masks) is BitMasks:
        masks = IndexedBitMasks.from_bit_masks(masks)
    else:
        return instances
    return Instances(instances.image_size, **{**instances.get_fields(), "gt_masks": masks})


def mask_targets(
    instances: list[Instances],
    size: int | tuple[int, int],
    *,
    boxes_field: str = "proposal_boxes",
    boxes: Sequence[Boxes] | None = None,
) -> Tensor:
    """Rasterise ``gt_masks`` inside boxes, as targets of a mask head, for all images of a batch.

    One op rasterises the polygons of the whole batch; it waits once for boxes on a GPU.

    Args:
        instances: one for each image, with ``gt_masks`` (PolygonMasks, BitMasks, or anything with
            their ``crop_and_resize``) and boxes. Those without instances need no ``gt_masks``.
        size: (h, w) of the targets, or one number for both.
        boxes_field: the field with the Boxes.
        boxes: other boxes than those in ``boxes_field``, one Boxes for each image.

    Returns:
        (R, h, w) bool for the R instances of all images in their order, on the boxes' device.

    Raises:
        ValueError: the list is empty, or a polygon has a coordinate that is not finite.
    """
    if not instances:
        raise ValueError("mask_targets needs Instances of at least one image.")
    if boxes is None:
        boxes = [item.get(boxes_field) for item in instances]
    regions = [item.tensor if isinstance(item, Boxes) else item for item in boxes]
    device = regions[0].device
    filled = [index for index, item in enumerate(instances) if len(item) > 0]
    if not filled:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        return torch.zeros((0, *sides), dtype=torch.bool, device=device)
    masks = [pack_gt_masks(instances[index]).get("gt_masks") for index in filled]
    regions = [regions[index] for index in filled]
    if all(isinstance(item, PackedPolygonMasks) for item in masks):
        return PackedPolygonMasks.cat(masks).crop_and_resize(torch.cat(regions), size)
    targets = [mask.crop_and_resize(box, size).to(device) for mask, box in zip(masks, regions)]
    return torch.cat(targets)
