# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The ops behind :func:`mrcnn_ext.layers.roi_align_pyramid`.

``roi_align_pyramid`` and ``roi_align_pyramid_backward`` are each other's derivative (both are linear
in their only differentiable argument), so two formulas give derivatives of every order. Both allocate
their results and have them computed by ``_roi_align_forward`` and ``_roi_align_backward``, or by
torchvision's ops on a device without the compiled library.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import LIBRARY, Kernel
from . import fallback
from .checks import check_backward, check_batch_indices, check_forward

__all__ = ["ROI_ALIGN_BACKWARD", "ROI_ALIGN_FORWARD", "is_channels_last"]

_GEOMETRY = (
    "Tensor rois, Tensor? levels, float[] scales, int sampling_ratio, bool aligned, "
    "float canonical_box_size, int canonical_level"
)
LIBRARY.define(
    "roi_align_pyramid(Tensor[] features, Tensor rois, Tensor? levels, float[] scales, "
    "SymInt[] output_size, int sampling_ratio, bool aligned, float canonical_box_size, "
    "int canonical_level) -> Tensor"
)
LIBRARY.define(
    "roi_align_pyramid_backward(Tensor grad_output, Tensor rois, Tensor? levels, float[] scales, "
    "SymInt batch_size, SymInt[] heights, SymInt[] widths, bool channels_last, int sampling_ratio, "
    "bool aligned, float canonical_box_size, int canonical_level) -> Tensor[]"
)
# What the compiled libraries implement: tensors are dense, in one of the two memory formats.
ROI_ALIGN_FORWARD = Kernel(
    f"_roi_align_forward(Tensor[] features, {_GEOMETRY}, Tensor(a!) output) -> ()",
    fallback.forward,
    ("cpu", "cuda"),
)
ROI_ALIGN_BACKWARD = Kernel(
    f"_roi_align_backward(Tensor grad_output, {_GEOMETRY}, Tensor(a!)[] grad_features) -> ()",
    fallback.backward,
    ("cpu", "cuda"),
)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a (N, C, H, W) tensor is stored as (N, H, W, C); False for one that is both."""
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _empty_maps(like: Tensor, batch_size, heights, widths, channels_last: bool) -> list[Tensor]:
    layout = _memory_format(channels_last)
    channels, dtype, device = like.shape[1], like.dtype, like.device
    return [
        torch.empty((batch_size, channels, h, w), dtype=dtype, device=device, memory_format=layout)
        for h, w in zip(heights, widths)
    ]


def _contiguous(levels: Tensor | None) -> Tensor | None:
    return None if levels is None else levels.contiguous()


def _forward(
    features, rois, levels, scales, output_size, sampling_ratio, aligned, box_size, level
) -> Tensor:
    check_forward(features, rois, levels, scales, output_size, sampling_ratio, box_size, level)
    first = features[0]
    check_batch_indices(rois, first.shape[0])
    layout = _memory_format(is_channels_last(first))
    shape = (rois.shape[0], first.shape[1], *output_size)
    output = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=layout)
    if output.numel() == 0:
        return output
    pool = ROI_ALIGN_FORWARD.on(first.device)
    pool(
        [feature.contiguous(memory_format=layout) for feature in features],
        rois.contiguous(), _contiguous(levels), scales, sampling_ratio, aligned, box_size, level,
        output,
    )  # fmt: skip
    return output


def _backward(
    grad_output, rois, levels, scales, batch_size, heights, widths, channels_last,
    sampling_ratio, aligned, box_size, level,
) -> list[Tensor]:  # fmt: skip
    check_backward(
        grad_output, rois, levels, scales, batch_size, heights, widths, sampling_ratio, box_size,
        level,
    )  # fmt: skip
    check_batch_indices(rois, batch_size)
    grads = _empty_maps(grad_output, batch_size, heights, widths, channels_last)
    if grad_output.numel() == 0:
        return [grad.zero_() for grad in grads]
    if not grad_output.is_contiguous(memory_format=torch.channels_last):
        grad_output = grad_output.contiguous()
    spread = ROI_ALIGN_BACKWARD.on(grad_output.device)
    spread(
        grad_output, rois.contiguous(), _contiguous(levels), scales, sampling_ratio, aligned,
        box_size, level, grads,
    )  # fmt: skip
    return grads


def _forward_fake(features, rois, levels, scales, output_size, *_):
    first = features[0]
    shape = (rois.shape[0], first.shape[1], *output_size)
    layout = _memory_format(is_channels_last(first))
    return torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=layout)


def _backward_fake(
    grad_output, rois, levels, scales, batch_size, heights, widths, channels_last, *_
):
    return _empty_maps(grad_output, batch_size, heights, widths, channels_last)


def _save_for_gradient(ctx, inputs, output) -> None:
    features, rois, levels, scales, _, *geometry = inputs
    ctx.save_for_backward(rois, levels)
    ctx.scales, ctx.geometry = scales, geometry
    ctx.batch_size = features[0].shape[0]
    ctx.heights = [feature.shape[2] for feature in features]
    ctx.widths = [feature.shape[3] for feature in features]
    ctx.channels_last = is_channels_last(features[0])


def _gradient(ctx, grad_output):
    rois, levels = ctx.saved_tensors
    grads = torch.ops.mrcnn_ext.roi_align_pyramid_backward(
        grad_output, rois, levels, ctx.scales, ctx.batch_size, ctx.heights, ctx.widths,
        ctx.channels_last, *ctx.geometry,
    )  # fmt: skip
    return (grads, *[None] * 8)


def _save_for_double_gradient(ctx, inputs, output) -> None:
    grad_output, rois, levels, scales, _, _, _, _, *geometry = inputs
    ctx.save_for_backward(rois, levels)
    ctx.scales, ctx.geometry = scales, geometry
    ctx.output_size = list(grad_output.shape[2:])


def _double_gradient(ctx, grads):
    rois, levels = ctx.saved_tensors
    grad = torch.ops.mrcnn_ext.roi_align_pyramid(
        list(grads), rois, levels, ctx.scales, ctx.output_size, *ctx.geometry
    )
    return (grad, *[None] * 11)


for _name, _implementation, _fake, _save, _formula in (
    ("roi_align_pyramid", _forward, _forward_fake, _save_for_gradient, _gradient),
    (
        "roi_align_pyramid_backward", _backward, _backward_fake, _save_for_double_gradient,
        _double_gradient,
    ),
):  # fmt: skip
    for _device in ("CPU", "CUDA"):
        LIBRARY.impl(_name, _implementation, _device)
    torch.library.register_fake(f"mrcnn_ext::{_name}", _fake, lib=LIBRARY)
    torch.library.register_autograd(
        f"mrcnn_ext::{_name}", _formula, setup_context=_save, lib=LIBRARY
    )
