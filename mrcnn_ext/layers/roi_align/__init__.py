# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""RoIAlign over a feature pyramid in one op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import two_sides, whole_number
from . import ops  # noqa: F401  (registers the ops)
from .checks import check_forward

__all__ = ["roi_align_pyramid"]


def roi_align_pyramid(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 0,
    aligned: bool = True,
    canonical_box_size: float = 224,
    canonical_level: int = 4,
    levels: Tensor | None = None,
) -> Tensor:
    """Pool boxes with RoIAlign (Mask R-CNN, section 3), each from its level of a feature pyramid.

    With one feature map this is torchvision's ``roi_align``, up to rounding. With several, a box is
    pooled from level ``floor(canonical_level + log2(sqrt(area) / canonical_box_size))`` (FPN,
    equation 1), clamped to the existing levels: Detectron2's ``assign_boxes_to_levels``.

    The result has the memory format of ``features[0]``; channels_last is the fast one. Whatever the
    features' dtype, coordinates are float32 (float64 for float64 features) and sums are at least
    float32; autocast has no effect. The gradient with respect to the features is differentiable
    again and deterministic: bit for bit the same in every run and for every number of threads, except
    on a GPU without the compiled library, where torchvision's op runs. Boxes get no gradient.

    Empty and inverted boxes are treated as torchvision treats them. A box with a NaN or infinite
    coordinate gives zeros, and so does one of negative area if there are several levels.

    Args:
        features: L tensors (N, C, H_l, W_l) of one dtype (float32, float64, float16 or bfloat16).
        rois: (R, 5) float32 or float64; (batch index, x0, y0, x1, y1) in pixels of the image.
        scales: L numbers, the scale of each feature map relative to the image (1 / stride). With
            several levels they are powers of two, each half of the one before, unless ``levels`` is
            given.
        output_size: (h, w) of the result, or one number for both; up to 32767.
        sampling_ratio: samples per output cell and axis, up to 65536; 0 takes ceil(box size / output
            size), in cells of the feature map, box by box. A float is accepted if it is a whole number,
            here and in ``output_size`` and ``canonical_level``.
        aligned: shift samples by half a pixel to their exact places ("ROIAlignV2"); False is the
            paper's code ("ROIAlign"), which also makes boxes at least one pixel large.
        canonical_box_size: box side in pixels that belongs to ``canonical_level``.
        canonical_level: see above; level l has stride 2**l.
        levels: (R,) int64 indices into ``features`` that override the choice by area; a RoI whose
            index is out of range gives zeros.

    Returns:
        (R, C, h, w), dtype and device of ``features``.

    Raises:
        TypeError: a dtype is not supported, or dtypes differ.
        ValueError: a shape, device, scale or size is invalid; on the CPU also if a batch index is
            out of range. On a GPU, where the check would wait for the device, such a RoI gives NaN
            and no gradient.
    """
    features = list(features)
    size = two_sides("output_size", output_size)
    sampling_ratio = whole_number("sampling_ratio", sampling_ratio)
    canonical_level = whole_number("canonical_level", canonical_level)
    check_forward(
        features, rois, levels, scales, size, sampling_ratio, canonical_box_size, canonical_level
    )
    return torch.ops.mrcnn_ext.roi_align_pyramid(
        features,
        rois,
        levels,
        [float(scale) for scale in scales],
        list(size),
        sampling_ratio,
        aligned,
        float(canonical_box_size),
        canonical_level,
    )
