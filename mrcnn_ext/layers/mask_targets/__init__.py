# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask targets: crop ground-truth masks to boxes and resize them to a mask head's output.

The result is that of Detectron2's ``PolygonMasks.crop_and_resize`` and ``BitMasks.crop_and_resize``,
bit for bit, with one op for all boxes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..checks import MAX_MAP_SIDE, two_sides
from ..polygons import PackedPolygons
from . import ops

__all__ = ["bitmask_targets", "polygon_mask_targets"]

# Detectron2 divides a Python int by a float32 scalar: a float64 before NumPy 2, a float32 since.
_DIVIDES_IN_DOUBLE = isinstance(28 / np.float32(3), np.float64)


def polygon_mask_targets(
    packed: PackedPolygons,
    boxes: Tensor,
    size: int | tuple[int, int],
    instances: Tensor | None = None,
) -> Tensor:
    """Rasterise polygons inside boxes, on a grid of h x w cells each.

    The bits are those of the COCO API (pycocotools) as Detectron2's ``PolygonMasks.crop_and_resize``
    calls it, for float32 and float64 boxes and with the installed NumPy. An instance without polygons
    and a box that is not finite give zeros.

    Args:
        packed: polygons of N instances.
        boxes: (R, 4) x0, y0, x1, y1 in pixels, on any device. float32 or float64; other types are
            converted to float32. Boxes on a GPU cost one synchronisation.
        size: (h, w) of the grid, or one number for both.
        instances: (R,) int64, the instance of each box, on any device. None: box r has instance r.

    Returns:
        (R, h, w) bool, on the device of ``boxes``.

    Raises:
        ValueError: a shape, type or size is invalid.
        RuntimeError: an instance is out of range, or so are the offsets of ``packed``.
    """
    _check_packed(packed)
    height, width = _check(boxes, size, instances, len(packed))
    if boxes.dtype not in (torch.float32, torch.float64):
        boxes = boxes.float()
    device = boxes.device
    if instances is None:
        instances = torch.arange(len(packed))
    boxes, instances = _to_host(boxes.detach(), instances)
    _check_instances(instances, len(packed))
    output = _empty_on_host((boxes.shape[0], height, width), device)
    if output.numel():
        rasterize = ops.POLYGON_MASK_TARGETS.on(output.device)
        rasterize(
            packed.points, packed.part_begin, packed.instance_begin, instances, boxes,
            _DIVIDES_IN_DOUBLE, output,
        )  # fmt: skip
    return output.to(device, non_blocking=True)


def bitmask_targets(
    masks: Tensor, boxes: Tensor, size: int | tuple[int, int], instances: Tensor | None = None
) -> Tensor:
    """Crop full masks to boxes and resize them to h x w: RoIAlign, thresholded at one half.

    The bits are those of Detectron2's ``BitMasks.crop_and_resize``, ties included: on the CPU the
    compiled op decides clear cases by a shorter sum and the others in torchvision's own order of
    operations. Other devices run torchvision's RoIAlign, which converts each mask to float32 once,
    however many boxes it has. A box that is empty, inverted or not finite gives zeros, and so does, on
    a GPU, an instance out of range.

    Args:
        masks: (N, H, W) bool; sides below 2^23.
        boxes: (R, 4) x0, y0, x1, y1 in pixels; converted to float32, as in Detectron2.
        size: (h, w) of the result, or one number for both.
        instances: (R,) int64, the mask of each box. None: box r has mask r.

    Returns:
        (R, h, w) bool, on the device of ``masks``.

    Raises:
        ValueError: a shape or size is invalid.
        RuntimeError: on the CPU, an instance is out of range.
    """
    if masks.dim() != 3 or masks.dtype != torch.bool:
        raise ValueError(f"masks must be (N, H, W) bool, not {masks.dtype} {tuple(masks.shape)}.")
    if max(masks.shape[1:]) > MAX_MAP_SIDE:
        raise ValueError(f"masks must have sides below 2^23, not {tuple(masks.shape)}.")
    height, width = _check(boxes, size, instances, masks.shape[0])
    device = masks.device
    if instances is None:
        instances = torch.arange(masks.shape[0], device=device)
    boxes = boxes.detach().to(device, torch.float32).contiguous()
    instances = instances.to(device).contiguous()
    _check_instances(instances, masks.shape[0])
    output = torch.empty((boxes.shape[0], height, width), dtype=torch.bool, device=device)
    if masks.shape[1] * masks.shape[2] == 0:
        return output.zero_()
    if output.numel():
        crop = ops.BITMASK_TARGETS.on(device)
        crop(masks.contiguous(), instances, boxes, output)
    return output


def _check(
    boxes: Tensor, size: int | tuple[int, int], instances: Tensor | None, count: int
) -> tuple[int, int]:
    """Check the arguments that both functions share; returns (h, w)."""
    sides = two_sides("size", size)
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
    return sides


def _check_packed(packed: PackedPolygons) -> None:
    """Check types and shapes; the ops check the offsets."""
    for name, dtype, shape in (
        ("points", torch.float64, "(P, 2)"),
        ("part_begin", torch.int64, "(K + 1,)"),
        ("instance_begin", torch.int64, "(N + 1,)"),
    ):
        tensor = getattr(packed, name)
        fits = tensor.shape[1:] == (2,) if name == "points" else tensor.dim() == 1
        if not (fits and tensor.dtype == dtype and tensor.is_cpu and tensor.is_contiguous()):
            raise ValueError(
                f"{name} of the polygons must be {shape} {dtype}, contiguous and on the CPU, not "
                f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}."
            )


def _check_instances(instances: Tensor, count: int) -> None:
    """Raise for an instance out of range; not on a GPU, which would have to be waited for."""
    if instances.device.type != "cpu" or instances.shape[0] == 0:
        return
    numbers = instances.numpy()
    # One pass: a negative number is a very large one without its sign.
    if int(numbers.view(np.uint64).max()) >= count:
        row = int(((numbers < 0) | (numbers >= count)).argmax())
        raise RuntimeError(
            f"box {row} has instance {numbers[row]} of {count}: expected 0 to {count - 1}"
        )


def _to_host(*tensors: Tensor) -> list[Tensor]:
    """Copy to contiguous CPU tensors: from CUDA through pinned memory, with one wait for all."""
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
    """A bool tensor that can be copied to ``device`` without a wait."""
    return torch.empty(shape, dtype=torch.bool, pin_memory=device.type == "cuda")
