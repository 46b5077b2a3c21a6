# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Checks of RoIAlign's arguments: of the function, and of the registered ops that anybody may call."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import MAX_MAP_SIDE, two_sides

__all__ = ["check_backward", "check_batch_indices", "check_forward"]

_FEATURE_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MAX_SAMPLING_RATIO = 2**16  # a cell costs its samples; also in csrc/roi_align_checks.h


def check_forward(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    output_size: Sequence[int],
    sampling_ratio: int,
    canonical_box_size: float,
    canonical_level: int,
) -> None:
    """Check everything but batch indices; see :func:`mrcnn_ext.layers.roi_align_pyramid`."""
    _check_features(features)
    _check_rois(rois, levels, features[0])
    _check_scales(scales, len(features), levels is None)
    two_sides("output_size", output_size)
    _check_numbers(sampling_ratio, canonical_box_size, canonical_level)


def check_backward(
    grad_output: Tensor,
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    batch_size: int,
    heights: Sequence[int],
    widths: Sequence[int],
    sampling_ratio: int,
    canonical_box_size: float,
    canonical_level: int,
) -> None:
    """The same for the gradient's arguments, which has the features' shapes in place of features."""
    if grad_output.dim() != 4 or grad_output.shape[:1] != rois.shape[:1]:
        raise ValueError(
            f"grad_output must be (R, C, h, w), one for each of {tuple(rois.shape)} rois, but has "
            f"shape {tuple(grad_output.shape)}."
        )
    if grad_output.dtype not in _FEATURE_DTYPES:
        raise TypeError(
            f"grad_output is {grad_output.dtype}; supported are float32, float64, float16 and "
            "bfloat16."
        )
    two_sides("the size of grad_output", tuple(grad_output.shape[2:]))
    _check_rois(rois, levels, grad_output)
    if not len(heights) == len(widths) == len(scales) or len(scales) == 0:
        raise ValueError(
            f"heights, widths and scales must be as many, not {len(heights)}, {len(widths)} and "
            f"{len(scales)}."
        )
    if batch_size < 0 or any(not 0 <= side <= MAX_MAP_SIDE for side in (*heights, *widths)):
        raise ValueError(
            f"batch_size must be 0 or more and sides 0 to {MAX_MAP_SIDE}, not {batch_size}, "
            f"{list(heights)} and {list(widths)}."
        )
    _check_scales(scales, len(scales), levels is None)
    _check_numbers(sampling_ratio, canonical_box_size, canonical_level)


def check_batch_indices(rois: Tensor, batch_size: int) -> None:
    """Check the indices on the CPU; elsewhere that would wait for the device."""
    if rois.device.type != "cpu" or rois.shape[0] == 0:
        return
    batch = rois[:, 0]
    wrong = (batch != batch.trunc()) | (batch < 0) | (batch >= batch_size)
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"rois[{index}] has batch index {float(batch[index]):g}, but features hold "
            f"{batch_size} images: it must be a whole number from 0 to {batch_size - 1}."
        )


def _check_numbers(sampling_ratio: int, canonical_box_size: float, canonical_level: int) -> None:
    if not 0 <= sampling_ratio <= _MAX_SAMPLING_RATIO:
        raise ValueError(
            f"sampling_ratio must be 0 (adaptive) or more, up to {_MAX_SAMPLING_RATIO}, not "
            f"{sampling_ratio}."
        )
    if not canonical_box_size > 0:
        raise ValueError(f"canonical_box_size must be positive, not {canonical_box_size}.")
    if not abs(canonical_level) <= MAX_MAP_SIDE:
        raise ValueError(f"canonical_level must be below 2^23, not {canonical_level}.")


def _check_features(features: Sequence[Tensor]) -> None:
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
        if max(feature.shape[2:]) > MAX_MAP_SIDE:
            raise ValueError(
                f"features[{index}] has shape {tuple(feature.shape)}; sides must be below 2^23."
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
