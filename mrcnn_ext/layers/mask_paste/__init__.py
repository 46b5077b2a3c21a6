# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Paste a mask head's small masks into the image: as COCO's run lengths, or dense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import ops

if TYPE_CHECKING:
    from detectron2.structures import Boxes

__all__ = ["masks_to_rle", "paste_masks"]

_MAX_SIDE = 2**24 - 1  # pixels are counted in float32
_MAX_PIXELS = 2**32 - 1  # run lengths are 32 bits in pycocotools


def masks_to_rle(
    masks: Tensor, boxes: Tensor | Boxes, image_size: tuple[int, int], threshold: float = 0.5
) -> list[dict]:
    """Paste masks into an image and encode them, without a dense mask in between.

    The strings equal those of Detectron2's ``paste_masks_in_image`` and pycocotools' ``encode`` on the
    CPU, character by character (docs/mask_postprocessing.md says where that was checked). A box on
    which Detectron2 fails (beside the image, NaN) gives an empty mask.

    Masks on a GPU are copied to the host and encoded there with the CPU's arithmetic.

    Args:
        masks: (R, h, w) or (R, 1, h, w); scores, logits or bool. float16, bfloat16 and other types are
            converted to float32; float64 is kept and takes the slow path.
        boxes: (R, 4) tensor or Boxes; x0, y0, x1, y1 in pixels of the image, of any size, clipped or
            not.
        image_size: (height, width) in pixels.
        threshold: pixels with at least this value belong to the mask.

    Returns:
        R dicts {"size": [height, width], "counts": bytes}, as from pycocotools' encode. For json, which
        takes only strings, decode the counts as ASCII.

    Raises:
        ValueError: a shape, device or image size is invalid, or the threshold is negative or NaN.
    """
    if not threshold >= 0:
        raise ValueError(
            f"threshold is {threshold}; it must be 0 or more. (To paste_masks, a negative one means "
            "that masks stay soft, which run lengths cannot hold.)"
        )
    height, width = _checked_size(image_size)
    if height * width > _MAX_PIXELS:
        raise ValueError(f"image_size is {height} x {width}: run lengths end at 2^32 - 1 pixels.")
    masks, boxes = _to_host(*_checked(masks, boxes))
    if len(masks) == 0:
        return []
    encode = ops.exact(ops.MASKS_TO_RLE, masks, boxes, threshold)
    text, offsets = encode(masks.contiguous(), boxes.contiguous(), height, width, float(threshold))
    strings = text.numpy().tobytes()
    ends = offsets.tolist()
    return [
        {"size": [height, width], "counts": strings[begin:end]}
        for begin, end in zip(ends, ends[1:])
    ]


def paste_masks(
    masks: Tensor, boxes: Tensor | Boxes, image_shape: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Detectron2's ``paste_masks_in_image``: the same arguments, the same result.

    On the CPU the result is the same bit for bit, for float32 and float64 masks. Pixels outside the
    boxes are not touched: memory that no mask reaches is not even allocated. Besides the result, each
    thread needs a copy of one mask and less than 60 bytes for each pixel of a row and of a column. On a
    GPU the torch ops that Detectron2 uses there run in chunks of 256 MB, or of one image if it needs
    more (24 bytes a pixel); Detectron2's chunks hold 1 GB of samples plus their positions.

    Beyond what Detectron2 accepts, masks need not be square, and a box beside the image or with NaN
    gives an empty mask. float16 and bfloat16 masks are pasted in float32, where Detectron2 rounds
    positions to 11 or 8 bits.

    Args:
        masks: (R, h, w) or (R, 1, h, w).
        boxes: (R, 4) tensor or Boxes, on the device of the masks.
        image_shape: (height, width) in pixels.
        threshold: pixels with at least this value belong to the mask; negative: no threshold.

    Returns:
        (R, height, width) bool. For a negative threshold uint8, 255 times the values; uint8 also if R
        is 0, as in Detectron2.

    Raises:
        ValueError: a shape, device or image size is invalid.
    """
    masks, boxes = _checked(masks, boxes)
    shape = (len(masks), *_checked_size(image_shape))
    binary = threshold >= 0 and len(masks) > 0
    if masks.device.type != "cpu" or not binary:
        dtype = torch.bool if binary else torch.uint8
        images = torch.zeros(shape, dtype=dtype, device=masks.device)
    else:
        # NumPy gets zeroed pages from the system when they are first touched; torch.zeros writes all.
        images = torch.from_numpy(np.zeros(shape, dtype=bool))
    if images.numel() == 0:
        return images
    paste = ops.exact(ops.PASTE_MASKS, masks, boxes, threshold)
    paste(masks.contiguous(), boxes.contiguous(), float(threshold), images=images)
    return images


def _checked(masks: Tensor, boxes: Tensor | Boxes) -> tuple[Tensor, Tensor]:
    """Return masks (R, h, w) and boxes (R, 4), both float32 or float64, without gradients."""
    if not isinstance(boxes, Tensor):
        boxes = boxes.tensor
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.dim() != 3:
        raise ValueError(
            f"masks must be (R, h, w) or (R, 1, h, w), but has shape {tuple(masks.shape)}."
        )
    if boxes.shape != (len(masks), 4):
        raise ValueError(
            f"boxes must be ({len(masks)}, 4), one for each mask, but has shape {tuple(boxes.shape)}."
        )
    if len(masks) and masks[0].numel() == 0:
        raise ValueError(f"masks has shape {tuple(masks.shape)}: a mask has no values.")
    if masks.device != boxes.device:
        raise ValueError(f"masks is on {masks.device}, but boxes is on {boxes.device}.")
    kept = (torch.float32, torch.float64)
    masks = masks if masks.dtype in kept else masks.float()
    boxes = boxes if boxes.dtype in kept else boxes.float()
    return masks.detach(), boxes.detach()


def _checked_size(image_size: tuple[int, int]) -> tuple[int, int]:
    height, width = (int(side) for side in image_size)
    if not (0 <= height <= _MAX_SIDE and 0 <= width <= _MAX_SIDE):
        raise ValueError(
            f"the image size is {tuple(image_size)}; sides must be 0 to {_MAX_SIDE} pixels."
        )
    return height, width


def _to_host(masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    if masks.device.type == "cpu" or masks.dtype != boxes.dtype:
        return masks.cpu(), boxes.cpu()
    # One copy for both, since each copy waits for the device.
    both = torch.cat([boxes, masks.flatten(1)], dim=1).cpu()
    return both[:, 4:].reshape(masks.shape), both[:, :4]
