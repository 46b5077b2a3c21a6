# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask targets: ground truth masks cropped to boxes and brought to the size of a mask head's output.

What Detectron2's ``PolygonMasks.crop_and_resize`` and ``BitMasks.crop_and_resize`` compute, bit for
bit, for all boxes in one op.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .ops import DIVIDES_IN_DOUBLE, bitmask_kernel, bitmask_targets_torch, polygon_kernel

__all__ = ["PackedPolygons", "bitmask_targets", "polygon_mask_targets"]


@dataclass(frozen=True)
class PackedPolygons:
    """The polygons of N instances in three flat tensors on the CPU; treat them as read-only.

    Attributes:
        points: (P, 2) float64, (x, y) in pixels of the image, finite.
        part_begin: (K + 1,) int64; polygon k is ``points[part_begin[k]:part_begin[k + 1]]``.
        instance_begin: (N + 1,) int64; instance n has the polygons ``instance_begin[n]`` to
            ``instance_begin[n + 1] - 1``. It may have none.
    """

    points: Tensor
    part_begin: Tensor
    instance_begin: Tensor

    def __len__(self) -> int:
        return self.instance_begin.shape[0] - 1

    @classmethod
    def from_lists(cls, polygons: Sequence[Sequence[np.ndarray]]) -> PackedPolygons:
        """Pack Detectron2's format: for each instance its polygons, each [x0, y0, x1, y1, ...].

        Raises:
            ValueError: a polygon of fewer than three points, of an odd number of coordinates, or
                with a coordinate that is not finite; names the instance and the polygon.
        """
        flat = [
            np.asarray(part, dtype=np.float64).reshape(-1) for item in polygons for part in item
        ]
        sizes = np.array([len(part) for part in flat], dtype=np.int64)
        values = np.concatenate(flat) if flat else np.zeros(0)
        if (sizes < 6).any() or (sizes % 2).any() or not np.isfinite(values).all():
            _raise_for_bad_polygon(polygons)
        return cls(
            torch.from_numpy(values.reshape(-1, 2)),
            _offsets(sizes // 2),
            _offsets(np.array([len(item) for item in polygons], dtype=np.int64)),
        )

    @classmethod
    def cat(cls, items: Sequence[PackedPolygons]) -> PackedPolygons:
        """All instances of ``items``, in their order; one item is returned as it is."""
        if len(items) == 1:
            return items[0]
        return cls(
            torch.cat([item.points for item in items]),
            _cat_offsets([item.part_begin for item in items]),
            _cat_offsets([item.instance_begin for item in items]),
        )

    def to_lists(self) -> list[list[np.ndarray]]:
        """Detectron2's format; the arrays are views of ``points``."""
        values, parts = self.points.numpy().reshape(-1), (2 * self.part_begin).tolist()
        arrays = [values[begin:end] for begin, end in zip(parts, parts[1:])]
        begins = self.instance_begin.tolist()
        return [arrays[begin:end] for begin, end in zip(begins, begins[1:])]


def _offsets(sizes: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]))


def _cat_offsets(offsets: list[Tensor]) -> Tensor:
    begin, pieces = 0, [offsets[0].new_zeros(1)]
    for item in offsets:
        pieces.append(item[1:] + begin)
        begin += int(item[-1])
    return torch.cat(pieces)


def _raise_for_bad_polygon(polygons: Sequence[Sequence[np.ndarray]]) -> None:
    for instance, parts in enumerate(polygons):
        for number, part in enumerate(parts):
            values = np.asarray(part, dtype=np.float64).reshape(-1)
            where = f"Polygon {number} of instance {instance}"
            if len(values) < 6 or len(values) % 2:
                raise ValueError(
                    f"{where} has {len(values)} coordinates; expected an even number, 6 or more."
                )
            if not np.isfinite(values).all():
                wrong = values[~np.isfinite(values)][0]
                raise ValueError(f"{where} has the coordinate {wrong}; expected finite numbers.")


def polygon_mask_targets(
    packed: PackedPolygons,
    boxes: Tensor,
    size: int | tuple[int, int],
    instances: Tensor | None = None,
) -> Tensor:
    """Rasterise polygons inside boxes, on a grid of h x w cells each.

    The bits are those of the COCO API (pycocotools) as Detectron2's ``PolygonMasks.crop_and_resize``
    calls it: a box of float32 or float64 gives what Detectron2 gives for it, with the NumPy that is
    installed. An instance without polygons gives zeros, and so does a box that is not finite.

    Args:
        packed: polygons of N instances.
        boxes: (R, 4) x0, y0, x1, y1 in pixels, on any device. float32 or float64; other types are
            taken as float32. On a GPU this waits for the boxes, once.
        size: (h, w) of the grid, or one number for both.
        instances: (R,) int64, the instance of each box, on any device. None: box r has instance r.

    Returns:
        (R, h, w) bool, on the device of ``boxes``.

    Raises:
        ValueError: shapes or sizes that do not fit.
        RuntimeError: an instance out of range.
    """
    height, width = _check(boxes, size, instances, len(packed))
    if boxes.dtype not in (torch.float32, torch.float64):
        boxes = boxes.float()
    device = boxes.device
    if instances is None:
        instances = torch.arange(len(packed))
    boxes, instances = _to_host(boxes.detach(), instances)
    output = _empty_on_host((boxes.shape[0], height, width), device)
    if output.numel():
        polygon_kernel(
            packed.points, packed.part_begin, packed.instance_begin, instances, boxes,
            DIVIDES_IN_DOUBLE, output,
        )  # fmt: skip
    return output.to(device, non_blocking=True)


def bitmask_targets(
    masks: Tensor, boxes: Tensor, size: int | tuple[int, int], instances: Tensor | None = None
) -> Tensor:
    """Crop full masks to boxes and resize them to h x w: RoIAlign, at least one half.

    The bits are those of Detectron2's ``BitMasks.crop_and_resize``, ties included: on the CPU the
    compiled op decides clear cases by a shorter sum and others by torchvision's own order of
    operations. On other devices torchvision's RoIAlign runs, with every mask converted to float32
    once however many boxes it has. A box that is empty, inverted or not finite gives zeros.

    Args:
        masks: (N, H, W) bool.
        boxes: (R, 4) x0, y0, x1, y1 in pixels; taken as float32, as Detectron2 does.
        size: (h, w) of the result, or one number for both.
        instances: (R,) int64, the mask of each box. None: box r has mask r.

    Returns:
        (R, h, w) bool, on the device of ``masks``.

    Raises:
        ValueError: shapes or sizes that do not fit.
        RuntimeError: on the CPU, an instance out of range.
    """
    if masks.dim() != 3 or masks.dtype != torch.bool:
        raise ValueError(f"masks must be (N, H, W) bool, not {masks.dtype} {tuple(masks.shape)}.")
    height, width = _check(boxes, size, instances, masks.shape[0])
    device = masks.device
    if instances is None:
        instances = torch.arange(masks.shape[0], device=device)
    boxes = boxes.detach().to(device, torch.float32).contiguous()
    instances = instances.to(device).contiguous()
    output = torch.empty((boxes.shape[0], height, width), dtype=torch.bool, device=device)
    if masks.shape[1] * masks.shape[2] == 0:
        return output.zero_()
    if output.numel():
        kernel = bitmask_kernel if device.type == "cpu" else bitmask_targets_torch
        kernel(masks.contiguous(), instances, boxes, output)
    return output


def _check(
    boxes: Tensor, size: int | tuple[int, int], instances: Tensor | None, count: int
) -> tuple[int, int]:
    """Check what both functions take; returns (h, w)."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(side < 1 for side in sides):
        raise ValueError(f"size must be one or two positive numbers, not {size!r}.")
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            "boxes must be (R, 4) floating point numbers x0, y0, x1, y1, not "
            f"{boxes.dtype} {tuple(boxes.shape)}."
        )
    if instances is None:
        if boxes.shape[0] != count:
            raise ValueError(f"{boxes.shape[0]} boxes for {count} instances: give `instances`.")
    elif instances.dtype != torch.int64 or instances.shape != boxes.shape[:1]:
        raise ValueError(
            f"instances must be ({boxes.shape[0]},) int64, one for each box, not "
            f"{instances.dtype} {tuple(instances.shape)}."
        )
    return sides[0], sides[1]


def _to_host(*tensors: Tensor) -> list[Tensor]:
    """Contiguous copies on the CPU; of CUDA tensors through pinned memory, with one wait for all."""
    copies, streams = [], set()
    for tensor in tensors:
        if tensor.device.type != "cuda":
            copies.append(tensor.cpu().contiguous())
            continue
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        copies.append(copy.copy_(tensor, non_blocking=True))
        streams.add(torch.cuda.current_stream(tensor.device))
    for stream in streams:
        stream.synchronize()
    return copies


def _empty_on_host(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """A bool tensor that can be copied to ``device`` without waiting for it."""
    return torch.empty(shape, dtype=torch.bool, pin_memory=device.type == "cuda")
