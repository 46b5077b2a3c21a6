# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""RoIAlign over a feature pyramid in one op."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import two_sides, whole_number
from . import ops  # noqa: F401  (registers the ops)

__all__ = ["roi_align_pyramid"]

_FEATURE_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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
        output_size: (h, w) of the result, or one number for both.
        sampling_ratio: samples per output cell and axis; 0 takes ceil(box size / output size), in
            cells of the feature map, box by box. A float is accepted if it is a whole number, here
            and in ``output_size`` and ``canonical_level``.
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
    _check_features(features)
    _check_rois(rois, levels, features[0])
    _check_scales(scales, len(features), levels is None)
    size = two_sides("output_size", output_size)
    sampling_ratio = whole_number("sampling_ratio", sampling_ratio)
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio must be 0 (adaptive) or more, not {sampling_ratio}.")
    if not canonical_box_size > 0:
        raise ValueError(f"canonical_box_size must be positive, not {canonical_box_size}.")
    return torch.ops.mrcnn_ext.roi_align_pyramid(
        features,
        rois,
        levels,
        [float(scale) for scale in scales],
        list(size),
        sampling_ratio,
        aligned,
        float(canonical_box_size),
        whole_number("canonical_level", canonical_level),
    )


def _check_features(features: list[Tensor]) -> None:
    if not features:
        raise ValueError("features is empty: give at least one (N, C, H, W) tensor.")
    first = features[0]
    for index, feature in enumerate(features):
        if feature.dim() != 4:
            raise ValueError(
                f"features[{index}] must be (N, C, H, W), but has shape {tuple(feature.shape)}."
            )
        if feature.dtype not in _FEATURE_DTYPES:
            raise TypeError(
                f"features[{index}] is {feature.dtype}; supported are float32, float64, float16 "
                "and bfloat16."
            )
        if feature.dtype != first.dtype:
            raise TypeError(
                f"features[{index}] is {feature.dtype}, but features[0] is {first.dtype}."
            )
        if feature.device != first.device:
            raise ValueError(
                f"features[{index}] is on {feature.device}, but features[0] on {first.device}."
            )
        if feature.shape[:2] != first.shape[:2]:
            raise ValueError(
                f"features[{index}] has (N, C) = {tuple(feature.shape[:2])}, but features[0] has "
                f"{tuple(first.shape[:2])}."
            )


def _check_rois(rois: Tensor, levels: Tensor | None, feature: Tensor) -> None:
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(
            "rois must be (R, 5) with rows (batch index, x0, y0, x1, y1), but has shape "
            f"{tuple(rois.shape)}."
        )
    if rois.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"rois is {rois.dtype}; it must be float32 or float64 whatever the features are, since "
            "half precision moves boxes by whole pixels."
        )
    if rois.device != feature.device:
        raise ValueError(f"rois is on {rois.device}, but features are on {feature.device}.")
    if levels is None:
        return
    if levels.shape != rois.shape[:1]:
        raise ValueError(
            f"levels must be ({rois.shape[0]},), one index per RoI, but has shape "
            f"{tuple(levels.shape)}."
        )
    if levels.dtype != torch.int64:
        raise TypeError(f"levels must be int64, not {levels.dtype}.")
    if levels.device != rois.device:
        raise ValueError(f"levels is on {levels.device}, but rois is on {rois.device}.")


def _check_scales(scales: Sequence[float], num_levels: int, choose_levels: bool) -> None:
    if len(scales) != num_levels:
        raise ValueError(f"{num_levels} features need as many scales, but there are {len(scales)}.")
    if not all(scale > 0 and math.isfinite(scale) for scale in scales):
        raise ValueError(f"scales must be positive, not {list(scales)}.")
    if num_levels == 1 or not choose_levels:
        return
    powers = [-math.log2(scale) for scale in scales]
    if not all(power.is_integer() for power in powers) or any(
        b - a != 1 for a, b in zip(powers, powers[1:])
    ):
        raise ValueError(
            f"scales must be powers of two, each half of the one before, not {list(scales)}; give "
            "levels for another arrangement."
        )
