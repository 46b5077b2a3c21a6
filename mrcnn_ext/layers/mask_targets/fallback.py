# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask targets with pycocotools and torchvision: what runs without compiled kernels.

Bitmasks on a GPU run here, too.
"""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import torch
import torchvision
from torch import Tensor

__all__ = ["bitmask_targets", "polygon_mask_targets"]


def polygon_mask_targets(
    points: Tensor, part_begin: Tensor, instance_begin: Tensor, instances: Tensor, boxes: Tensor,
    divide_in_double: bool, output: Tensor,
) -> None:  # fmt: skip
    """See ``_polygon_mask_targets`` in :mod:`.ops`; one instance at a time, as in Detectron2."""
    del divide_in_double  # NumPy itself divides here
    coordinates, parts, begins = points.numpy(), part_begin.tolist(), instance_begin.tolist()
    masks = output.numpy()
    for row, (instance, box) in enumerate(zip(instances.tolist(), boxes.numpy())):
        polygons = [
            coordinates[parts[part] : parts[part + 1]]
            for part in range(begins[instance], begins[instance + 1])
        ]
        masks[row] = _rasterize(polygons, box, *masks.shape[1:])


def _rasterize(polygons: list[np.ndarray], box: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) uint8 mask of (n, 2) polygons in a box (x0, y0, x1, y1)."""
    if not polygons or not np.isfinite(box).all():
        return np.zeros((height, width), dtype=np.uint8)
    # The types decide the rounding: 0.1 is a Python float, the sides are NumPy scalars.
    ratio_x = width / max(box[2] - box[0], 0.1)
    ratio_y = height / max(box[3] - box[1], 0.1)
    placed = []
    for polygon in polygons:
        cells = np.stack([(polygon[:, 0] - box[0]) * ratio_x, (polygon[:, 1] - box[1]) * ratio_y])
        placed.append(cells.T.reshape(-1))
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(placed, height, width)))


def bitmask_targets(masks: Tensor, instances: Tensor, boxes: Tensor, output: Tensor) -> None:
    """See ``_bitmask_targets`` in :mod:`.ops`; torchvision's RoIAlign, any device.

    Detectron2 converts a mask to float32 for each of its boxes; here each mask is converted once.
    """
    usable = torch.isfinite(boxes).all(dim=1, keepdim=True)
    rois = torch.cat([instances[:, None].to(boxes.dtype), torch.where(usable, boxes, 0)], dim=1)
    # Inverted boxes have no samples; torchvision may ask for a negative amount of memory there.
    empty = (rois[:, 3:] <= rois[:, 1:3]).any(dim=1)
    rois[:, 1:].masked_fill_(empty[:, None], 0)
    values = torchvision.ops.roi_align(
        masks[:, None].to(torch.float32), rois, tuple(output.shape[1:]), 1.0, 0, aligned=True
    )
    output.copy_(values[:, 0] >= 0.5)
