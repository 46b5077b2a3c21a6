# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask targets with pycocotools and torchvision: what runs without compiled kernels.

Bitmasks on a GPU run here, too. Polygons and boxes that reach too far for those libraries are computed
as in the compiled ops.
"""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import torch
import torchvision
from torch import Tensor

from ..sampling import Axis, make_axis, sample_positions
from . import far_polygons

__all__ = ["bitmask_targets", "polygon_mask_targets"]

# torchvision stores all samples of a box; of a mask it also converts the positions to int.
_MAX_SAMPLES = 2**24
_MAX_COORDINATE = 2.0**20


def polygon_mask_targets(
    points: Tensor, part_begin: Tensor, instance_begin: Tensor, instances: Tensor, boxes: Tensor,
    divide_in_double: bool, output: Tensor,
) -> None:  # fmt: skip
    """See ``_polygon_mask_targets`` in :mod:`.ops`; one instance at a time, as in Detectron2."""
    del divide_in_double  # NumPy itself divides here
    coordinates, parts, begins = points.numpy(), part_begin.tolist(), instance_begin.tolist()
    _check_offsets(parts, len(points), "part_begin")
    _check_offsets(begins, len(parts) - 1, "instance_begin")
    masks = output.numpy()
    for row, (instance, box) in enumerate(zip(instances.tolist(), boxes.numpy())):
        polygons = [
            coordinates[parts[part] : parts[part + 1]]
            for part in range(begins[instance], begins[instance + 1])
        ]
        masks[row] = _rasterize(polygons, box, *masks.shape[1:])


def _check_offsets(offsets: list[int], end: int, name: str) -> None:
    """As the compiled op: offsets[0] = 0 <= offsets[1] <= ... <= end."""
    if not offsets or offsets[0] != 0:
        raise RuntimeError(f"{name} must begin with 0")
    if any(a > b for a, b in zip(offsets, offsets[1:])):
        raise RuntimeError(f"{name} must not fall")
    if offsets[-1] != end:
        raise RuntimeError(f"{name} must end with {end}")


def _rasterize(polygons: list[np.ndarray], box: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) uint8 mask of (n, 2) polygons in a box (x0, y0, x1, y1)."""
    mask = np.zeros((height, width), dtype=np.uint8)
    if not np.isfinite(box).all():
        return mask
    near = []
    with np.errstate(all="ignore"):  # sides beyond float32 are infinite, as in the compiled op
        # The types decide the rounding: 0.1 is a Python float, the sides are NumPy scalars.
        ratio_x = width / max(box[2] - box[0], 0.1)
        ratio_y = height / max(box[3] - box[1], 0.1)
        for polygon in polygons:
            if len(polygon) == 0:
                continue
            x, y = (polygon[:, 0] - box[0]) * ratio_x, (polygon[:, 1] - box[1]) * ratio_y
            cells = np.stack([x, y], axis=1)
            if far_polygons.is_far(cells):
                mask |= far_polygons.draw(cells, height, width)
            else:
                near.append(cells.reshape(-1))
    if near:
        mask |= mask_util.decode(mask_util.merge(mask_util.frPyObjects(near, height, width)))
    return mask


def bitmask_targets(masks: Tensor, instances: Tensor, boxes: Tensor, output: Tensor) -> None:
    """See ``_bitmask_targets`` in :mod:`.ops`; torchvision's RoIAlign, any device.

    Detectron2 converts a mask to float32 for each of its boxes; here each mask is converted once. An
    instance out of range gives zeros.
    """
    if masks.shape[0] == 0:
        output.zero_()
        return
    # Inverted boxes have no samples; torchvision may ask for a negative amount of memory there.
    usable = torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    usable &= (instances >= 0) & (instances < masks.shape[0])
    large = usable & _is_large(boxes, output.shape[1:])
    rois = torch.cat([instances[:, None].to(boxes.dtype), boxes], dim=1)
    rois = torch.where((usable & ~large)[:, None], rois, 0)
    values = torchvision.ops.roi_align(
        masks[:, None].to(torch.float32), rois, tuple(output.shape[1:]), 1.0, 0, aligned=True
    )
    output.copy_(values[:, 0] >= 0.5)
    for row in large.nonzero()[:, 0].tolist():
        mask, box = masks[int(instances[row])].cpu().numpy(), boxes[row].cpu().numpy()
        output[row] = torch.from_numpy(_crop(mask, box, *output.shape[1:])).to(output.device)


def _is_large(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """(R,) bool: boxes on which torchvision's op fails, or takes memory by the gigabyte."""
    cells = boxes.new_tensor([size[1], size[0]], dtype=torch.float64)
    samples = ((boxes[:, 2:].double() - boxes[:, :2].double()) / cells).ceil() * cells
    near = (boxes.abs() <= _MAX_COORDINATE).all(dim=1)
    return ~(near & (samples.prod(dim=1) <= _MAX_SAMPLES))


def _crop(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool of one box, all samples of each cell added up in torchvision's order."""
    x0, y0, x1, y1 = box
    axis_y = make_axis(y0, y1, 1.0, True, height, 0, mask.shape[0])
    axis_x = make_axis(x0, x1, 1.0, True, width, 0, mask.shape[1])
    columns = [_corners(axis_x, cell) for cell in range(width)]
    target = np.zeros((height, width), dtype=bool)
    count = np.float32(axis_y.grid * axis_x.grid)
    for row in range(height):
        top, bottom, weight_top, weight_bottom = _corners(axis_y, row)
        lines = mask[top].astype(np.float32), mask[bottom].astype(np.float32)
        for column, (left, right, weight_left, weight_right) in enumerate(columns):
            values = (
                weight_top[:, None] * weight_left * lines[0][:, left]
                + weight_top[:, None] * weight_right * lines[0][:, right]
                + weight_bottom[:, None] * weight_left * lines[1][:, left]
                + weight_bottom[:, None] * weight_right * lines[1][:, right]
            )
            if values.size:
                # Unlike sum(), which adds up pairs, this adds one after the other.
                target[row, column] = values.reshape(-1).cumsum(dtype=np.float32)[-1] / count >= 0.5
    return target


def _corners(axis: Axis, cell: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The two pixels that each sample of a cell reads, and their float32 weights."""
    positions = sample_positions(axis, cell)
    low = np.minimum(positions.astype(np.int64), axis.length - 1)
    high = np.minimum(low + 1, axis.length - 1)
    positions = np.where(low == axis.length - 1, low.astype(np.float32), positions)
    second = positions - low.astype(np.float32)
    return low, high, np.float32(1) - second, second
