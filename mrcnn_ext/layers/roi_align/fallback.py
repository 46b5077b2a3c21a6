# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""RoIAlign over a pyramid on torchvision's ops, level by level: what runs without compiled kernels.

It costs as much as Detectron2's own pooler, and less for huge boxes (see :mod:`.large_boxes`). On CUDA,
torchvision sums gradients with atomics, so the last bits differ from run to run.
"""

from __future__ import annotations

import math

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from . import large_boxes

__all__ = ["assign_levels", "backward", "forward"]


def assign_levels(
    rois: Tensor, num_levels: int, min_level: int, canonical_box_size: float, canonical_level: int
) -> Tensor:
    """Each RoI's level by FPN's equation 1, as Detectron2 computes it.

    Returns:
        (R,) int64 index from 0; -1 where the area is negative or NaN.
    """
    sizes = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    level = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    index = level.clamp(min_level, min_level + num_levels - 1) - min_level
    return torch.where(torch.isnan(index), -1, index).long()


def _plan(rois, levels, scales, batch_size, sampling_ratio, aligned, box_size, level):
    """Sanitised RoIs, the level of each (-1: none), and whether its batch index is out of range."""
    if levels is None:
        levels = rois.new_zeros(rois.shape[0], dtype=torch.int64)
        if len(scales) > 1:
            min_level = round(-math.log2(scales[0]))
            levels = assign_levels(rois, len(scales), min_level, box_size, level)
    bad_index = ~((rois[:, 0] >= 0) & (rois[:, 0] < batch_size))
    usable = torch.isfinite(rois).all(dim=1) & ~bad_index
    if aligned and sampling_ratio == 0:
        # No samples, hence zeros; torchvision may ask for a negative amount of memory there.
        usable &= (rois[:, 3:] > rois[:, 1:3]).all(dim=1)
    clean = torch.where(usable[:, None], rois, 0)
    return clean, torch.where(usable, levels, -1), bad_index


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def forward(
    features: list[Tensor], rois: Tensor, levels: Tensor | None, scales: list[float],
    sampling_ratio: int, aligned: bool, box_size: float, level: int, output: Tensor,
) -> None:  # fmt: skip
    """See ``_roi_align_forward`` in :mod:`.ops`; writes ``output``."""
    clean, levels, bad_index = _plan(
        rois, levels, scales, features[0].shape[0], sampling_ratio, aligned, box_size, level
    )
    dtype = _compute_dtype(output.dtype)
    clean, bins = clean.to(dtype), (output.shape[2], output.shape[3])
    output.zero_()
    for index, (feature, scale) in enumerate(zip(features, scales)):
        if feature.shape[2] * feature.shape[3] == 0:
            continue
        values = feature.to(dtype)
        chosen, large = _split(clean, levels == index, scale, bins, sampling_ratio)
        pooled = torch.ops.torchvision.roi_align(
            values, clean[chosen], scale, *bins, sampling_ratio, aligned
        )
        output.index_copy_(0, chosen, pooled.to(output.dtype))
        for row in large:
            image, box = values[int(clean[row, 0])], clean[row, 1:]
            output[row] = large_boxes.pool(image, box, scale, bins, sampling_ratio, aligned)
    output[bad_index] = torch.nan


def backward(
    grad_output: Tensor, rois: Tensor, levels: Tensor | None, scales: list[float],
    sampling_ratio: int, aligned: bool, box_size: float, level: int, grad_features: list[Tensor],
) -> None:  # fmt: skip
    """See ``_roi_align_backward`` in :mod:`.ops`; writes ``grad_features``."""
    clean, levels, _ = _plan(
        rois, levels, scales, grad_features[0].shape[0], sampling_ratio, aligned, box_size, level
    )
    dtype = _compute_dtype(grad_output.dtype)
    clean, bins = clean.to(dtype), (grad_output.shape[2], grad_output.shape[3])
    for index, (grad, scale) in enumerate(zip(grad_features, scales)):
        if grad.numel() == 0:
            continue
        chosen, large = _split(clean, levels == index, scale, bins, sampling_ratio)
        part = torch.ops.torchvision._roi_align_backward(
            grad_output[chosen].to(dtype), clean[chosen], scale, *bins, *grad.shape,
            sampling_ratio, aligned,
        )  # fmt: skip
        for row in large:
            image, values = part[int(clean[row, 0])], grad_output[row].to(dtype)
            large_boxes.spread(values, clean[row, 1:], scale, image, sampling_ratio, aligned)
        grad.copy_(part)


def _split(
    rois: Tensor, chosen: Tensor, scale: float, bins: tuple[int, int], sampling_ratio: int
) -> tuple[Tensor, list[int]]:
    """Rows of ``chosen`` (R,) that torchvision's op takes, and those of large boxes."""
    large = large_boxes.is_large(rois[:, 1:], scale, bins, sampling_ratio) & chosen
    return (chosen & ~large).nonzero()[:, 0], large.nonzero()[:, 0].tolist()
