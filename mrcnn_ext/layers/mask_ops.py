# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""From box-sized masks to the image: COCO's run-length encoding without a dense mask, or dense."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn import functional as F

from .kernels import has_kernels

__all__ = ["masks_to_rle", "paste_masks"]

_LIBRARY = torch.library.Library("mrcnn_ext", "FRAGMENT")
_LIBRARY.define(
    "_masks_to_rle(Tensor masks, Tensor boxes, int height, int width, float threshold, "
    "Tensor(a!) ends) -> Tensor"
)
_LIBRARY.define(
    "_paste_masks(Tensor masks, Tensor boxes, float threshold, Tensor(a!) output) -> ()"
)
# Float32 samples that the path without kernels computes at a time, on any device.
_CHUNK_PIXELS = 2**24


def masks_to_rle(
    masks: Tensor,
    boxes: Boxes | Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.5,
) -> list[dict]:
    """Encode predicted masks as they appear in the image, in one pass without a dense mask.

    The texts are those of Detectron2's ``paste_masks_in_image`` on the CPU followed by pycocotools'
    ``encode``, character by character, wherever torch's vectorised CPU code runs (AVX2 or AVX-512).

    Args:
        masks: (R, h, w) or (R, 1, h, w) probabilities of any size, floating, bool or uint8; sampled in
            float32. On a GPU, they are copied to the host, small as they are, and encoded there.
        boxes: (R, 4) in pixels of the image. A box with a NaN, and one that does not touch the image,
            gives an empty mask (Detectron2 fails there).
        image_size: (height, width) in pixels.
        threshold: a pixel is inside if its probability is at least this; 0 or more.

    Returns:
        R dicts {"size": [height, width], "counts": bytes}, as pycocotools has them.

    Raises:
        ValueError: shapes do not fit, or the threshold is negative.
    """
    masks, boxes = _check(masks, boxes, image_size)
    if not threshold >= 0:
        raise ValueError(f"masks_to_rle has a threshold of {threshold}, expected 0 or more.")
    masks, boxes = masks.cpu(), boxes.cpu()
    height, width = int(image_size[0]), int(image_size[1])
    if len(masks) == 0:
        return []
    if not has_kernels("_C_cpu"):
        return _encode_dense(masks, boxes, (height, width), threshold)
    ends = torch.empty(len(masks), dtype=torch.int64)
    text = torch.ops.mrcnn_ext._masks_to_rle(masks, boxes, height, width, threshold, ends)
    data, stops = text.numpy().tobytes(), ends.tolist()
    return [
        {"size": [height, width], "counts": data[start:stop]}
        for start, stop in zip([0, *stops], stops)
    ]


def paste_masks(
    masks: Tensor,
    boxes: Boxes | Tensor,
    image_shape: tuple[int, int],
    threshold: float = 0.5,
) -> Tensor:
    """Detectron2's ``paste_masks_in_image``: same arguments, same result, but only boxes are touched.

    On the CPU the result is equal bit by bit (under the condition of :func:`masks_to_rle`); besides
    the result it needs a few kilobytes a thread. On a GPU, and without compiled kernels, boxes are
    sampled one by one with ``grid_sample``, at most 2**24 pixels at a time.

    Args:
        masks: (R, h, w) or (R, 1, h, w); see :func:`masks_to_rle`.
        boxes: (R, 4) in pixels of the image.
        image_shape: (height, width) in pixels.
        threshold: of the probabilities; negative: no threshold.

    Returns:
        (R, height, width) bool, or with a negative threshold uint8, probabilities times 255.

    Raises:
        ValueError: shapes do not fit.
    """
    masks, boxes = _check(masks, boxes, image_shape)
    dtype = torch.bool if threshold >= 0 else torch.uint8
    shape = (len(masks), int(image_shape[0]), int(image_shape[1]))
    if 0 in shape or masks.device.type != "cpu" or not has_kernels("_C_cpu"):
        output = torch.zeros(shape, dtype=dtype, device=masks.device)
        _paste_with_torch(masks, boxes, threshold, output)
        return output
    output = torch.empty(shape, dtype=dtype)
    torch.ops.mrcnn_ext._paste_masks(masks, boxes, threshold, output)
    return output


def _check(masks: Tensor, boxes: Boxes | Tensor, image_size) -> tuple[Tensor, Tensor]:
    """Both float32 and contiguous, masks (R, h, w), on the device of the masks."""
    boxes = boxes.tensor if isinstance(boxes, Boxes) else boxes
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.dim() != 3 or 0 in masks.shape[1:]:
        raise ValueError(
            f"masks have shape {tuple(masks.shape)}, expected (R, h, w) or (R, 1, h, w)."
        )
    if boxes.shape != (len(masks), 4):
        raise ValueError(
            f"boxes have shape {tuple(boxes.shape)}, expected ({len(masks)}, 4), one for each mask."
        )
    if len(image_size) != 2 or min(image_size) < 0 or max(image_size) >= 2**23:
        raise ValueError(
            f"the image size is {tuple(image_size)}, expected (height, width) in pixels."
        )
    return masks.float().contiguous(), boxes.to(masks.device, torch.float32).contiguous()


def _encode_dense(masks: Tensor, boxes: Tensor, image_size, threshold: float) -> list[dict]:
    import pycocotools.mask as mask_util

    result = []
    for i in range(len(masks)):  # one dense mask at a time
        dense = paste_masks(masks[i : i + 1], boxes[i : i + 1], image_size, threshold)[0]
        columns = np.asfortranarray(dense.numpy().astype(np.uint8))
        result.append(mask_util.encode(columns))
    return result


def _paste_with_torch(masks: Tensor, boxes: Tensor, threshold: float, output: Tensor) -> None:
    for mask, box, image, region in zip(masks, boxes, output, _regions(boxes, output.shape[1:])):
        y0, y1, x0, x1 = region
        rows = max(1, _CHUNK_PIXELS // max(x1 - x0, 1))
        grid_x = _positions(x0, x1, box[0], box[2])
        for top in range(y0, y1, rows) if x1 > x0 else ():
            bottom = min(top + rows, y1)
            grid_y = _positions(top, bottom, box[1], box[3])
            shape = (len(grid_y), len(grid_x))
            grid = torch.stack([grid_x[None].expand(shape), grid_y[:, None].expand(shape)], dim=2)
            values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
            values = values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)
            image[top:bottom, x0:x1] = values


def _regions(boxes: Tensor, image_size) -> list[tuple[int, int, int, int]]:
    """(y0, y1, x0, x1) of each box, one pixel wider; all zeros where a box has none."""
    sides = boxes.new_tensor([image_size[1], image_size[0]])
    low = (boxes[:, :2].floor() - 1).clamp(min=0)
    high = torch.minimum(boxes[:, 2:].ceil() + 1, sides)
    there = (low < high).all(dim=1, keepdim=True)  # false for NaN
    corners = torch.cat([low, high], dim=1).where(there, 0.0)
    return [(int(y0), int(y1), int(x0), int(x1)) for x0, y0, x1, y1 in corners.tolist()]


def _positions(begin: int, end: int, low: Tensor, high: Tensor) -> Tensor:
    pixels = torch.arange(begin, end, device=low.device, dtype=torch.float32) + 0.5
    return (pixels - low) / (high - low) * 2 - 1
