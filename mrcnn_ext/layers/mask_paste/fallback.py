# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Paste masks with torch's ``grid_sample``: what runs without compiled kernels, and on a GPU.

On the CPU, each mask is pasted into the pixels around its box; on a GPU, a few masks at a time into
the whole image, as in Detectron2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from pycocotools import mask as mask_util
from torch import Tensor
from torch.nn import functional as F

__all__ = ["masks_to_rle", "paste_masks"]

# One chunk's memory on a GPU besides the result: the grid twice, samples, a bool.
_CHUNK_BYTES = 256 * 2**20
_BYTES_PER_PIXEL = 24


def paste_masks(
    masks: Tensor, boxes: Tensor, threshold: float, fused: bool, images: Tensor
) -> None:
    """See ``_paste_masks`` in :mod:`.ops`; any device, images uint8 if the threshold is negative."""
    del fused  # grid_sample itself runs here
    height, width = images.shape[1:]
    if masks.device.type == "cpu":
        pasted = _paste_one_by_one(masks, boxes, (height, width), threshold)
        for image, (rows, columns, values) in zip(images, pasted):
            image[rows, columns] = values
        return
    rows, columns = slice(0, height), slice(0, width)
    step = max(1, _CHUNK_BYTES // (_BYTES_PER_PIXEL * max(height * width, 1)))
    for begin in range(0, len(masks), step):
        chunk = slice(begin, begin + step)
        images[chunk] = _binarize(_sample(masks[chunk], boxes[chunk], rows, columns), threshold)


def masks_to_rle(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, fused: bool
) -> tuple[Tensor, Tensor]:
    """See ``_masks_to_rle`` in :mod:`.ops`; CPU."""
    del fused
    strings = []
    image = np.zeros((height, width), dtype=np.uint8, order="F")
    for rows, columns, values in _paste_one_by_one(masks, boxes, (height, width), threshold):
        image[rows, columns] = values.numpy()
        strings.append(mask_util.encode(image)["counts"])
        image[rows, columns] = 0
    text = torch.from_numpy(np.array(bytearray(b"".join(strings)), dtype=np.uint8))
    return text, torch.tensor([0, *itertools.accumulate(map(len, strings))])


def _paste_one_by_one(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows and columns of the image around each box, and the pixels there; the others are 0."""
    for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        rows, columns = _pixels(y0, y1, image_size[0]), _pixels(x0, x1, image_size[1])
        one = slice(index, index + 1)
        values = _sample(masks[one], boxes[one], rows, columns)[0]
        yield rows, columns, _binarize(values, threshold)


def _pixels(low: float, high: float, side: int) -> slice:
    """From floor(low) - 1 to ceil(high), clipped to the image; empty for NaN."""
    # Infinities cannot be rounded. The limits are far outside any image.
    first = max(math.floor(max(low, -1e9)) - 1, 0) if low < 1e9 else side
    last = min(math.ceil(min(high, 1e9)) + 1, side) if high > -1e9 else 0
    return slice(first, last) if first < last else slice(0, 0)


def _sample(masks: Tensor, boxes: Tensor, rows: slice, columns: slice) -> Tensor:
    """(R, rows, columns) values of (R, h, w) masks stretched over their boxes."""

    def relative(pixels: slice, low: Tensor, high: Tensor) -> Tensor:
        centres = torch.arange(pixels.start, pixels.stop, device=boxes.device).float() + 0.5
        return (centres - low[:, None]) / (high - low)[:, None] * 2 - 1

    x0, y0, x1, y1 = boxes.unbind(1)
    x, y = relative(columns, x0, x1), relative(rows, y0, y1)
    shape = (len(masks), y.shape[1], x.shape[1])
    if 0 in shape:
        return masks.new_zeros(shape)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(masks[:, None], grid.to(masks.dtype), align_corners=False)[:, 0]


def _binarize(values: Tensor, threshold: float) -> Tensor:
    return values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)
