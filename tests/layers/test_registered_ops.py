# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The registered ops may be called with anything: what does not fit is an error, and never touched."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from mrcnn_ext.layers import kernel_status
from mrcnn_ext.layers.kernels import without_kernels

OPS = torch.ops.mrcnn_ext
COMPILED = kernel_status()[0].loaded
needs_kernels = pytest.mark.skipif(not COMPILED, reason="needs compiled kernels")


def roi_align_arguments() -> dict:
    return {
        "features": [torch.rand(2, 3, 8, 9), torch.rand(2, 3, 4, 5)],
        "rois": torch.tensor([[0.0, 1, 1, 30, 30], [1, 2, 2, 20, 25]]),
        "levels": torch.tensor([0, 1]),
        "scales": [0.25, 0.125],
        "sampling_ratio": 2,
        "aligned": True,
        "canonical_box_size": 224.0,
        "canonical_level": 4,
    }


def arguments_of(name: str) -> dict:
    """Arguments that the op takes."""
    roi_align = roi_align_arguments()
    if name == "_roi_align_forward":
        return {**roi_align, "output": torch.zeros(2, 3, 7, 6)}
    if name == "_roi_align_backward":
        grads = [torch.zeros_like(feature) for feature in roi_align.pop("features")]
        return {"grad_output": torch.rand(2, 3, 7, 6), **roi_align, "grad_features": grads}
    if name == "_paste_masks":
        return {
            "masks": torch.rand(2, 7, 7), "boxes": torch.tensor([[0.0, 0, 9, 9], [3, 3, 8, 8]]),
            "threshold": 0.5, "fused": True, "images": torch.zeros(2, 10, 12, dtype=torch.bool),
        }  # fmt: skip
    if name == "_masks_to_rle":
        arguments = arguments_of("_paste_masks")
        del arguments["images"]
        return {**arguments, "height": 10, "width": 12}
    if name == "_bicubic_peaks":
        return {
            "maps": torch.rand(2, 3, 8, 9), "sizes": torch.tensor([[20, 30], [5, 6]]),
            "pixels": torch.zeros(2, 3, 2, dtype=torch.int64), "values": torch.zeros(2, 3),
        }  # fmt: skip
    shared = {
        "instances": torch.tensor([0, 1]),
        "boxes": torch.tensor([[0.0, 0, 9, 9], [3, 3, 8, 8]]),
        "output": torch.zeros(2, 7, 6, dtype=torch.bool),
    }
    if name == "_bitmask_targets":
        return {"masks": torch.ones(2, 10, 12, dtype=torch.bool), **shared}
    assert name == "_polygon_mask_targets"
    return {
        "points": torch.rand(7, 2, dtype=torch.float64), "part_begin": torch.tensor([0, 3, 7]),
        "instance_begin": torch.tensor([0, 1, 2]), "divide_in_double": False, **shared,
    }  # fmt: skip


COMPILED_OPS = [
    "_roi_align_forward", "_roi_align_backward", "_paste_masks", "_masks_to_rle",
    "_bicubic_peaks", "_bitmask_targets", "_polygon_mask_targets",
]  # fmt: skip
MUTATIONS = {
    "one less": lambda t: t[:-1].contiguous(),
    "one more": lambda t: torch.cat([t, t[-1:]]),
    "none": lambda t: t[:0],
    "another dimension": lambda t: t[None],
    "a dimension less": lambda t: t.flatten() if t.dim() > 1 else t[0],
    "narrower": lambda t: t[..., :-1].contiguous() if t.dim() > 1 else t[:-1],
    "another type": lambda t: t.to(torch.int32),
    "strided": lambda t: torch.stack([t, t], dim=-1)[..., 0],
    "expanded": lambda t: t[:1].expand_as(t),
    "another device": lambda t: t.to("meta"),
}
# The size of these is free: other arguments follow from it, or nothing does.
FREE = {
    ("_bitmask_targets", "masks", "one more"),
    ("_bitmask_targets", "masks", "narrower"),
    ("_bitmask_targets", "output", "narrower"),
    ("_polygon_mask_targets", "output", "narrower"),
    ("_polygon_mask_targets", "instance_begin", "one more"),
    ("_paste_masks", "masks", "narrower"),
    ("_paste_masks", "images", "narrower"),
    ("_masks_to_rle", "masks", "narrower"),
    ("_bicubic_peaks", "maps", "narrower"),
    ("_roi_align_forward", "features", "narrower"),
    ("_roi_align_forward", "output", "narrower"),
    ("_roi_align_backward", "grad_features", "narrower"),
    ("_roi_align_backward", "grad_output", "narrower"),
}


@needs_kernels
@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", COMPILED_OPS)
def test_a_tensor_that_does_not_fit_is_an_error(name, mutation):
    op = getattr(OPS, name)
    op(**arguments_of(name))
    tried = 0
    for key, value in arguments_of(name).items():
        for index in range(len(value)) if isinstance(value, list) else [None]:
            arguments = arguments_of(name)
            tensor = value if index is None else value[index]
            if not isinstance(tensor, torch.Tensor) or (name, key, mutation) in FREE:
                continue
            changed = MUTATIONS[mutation](tensor)
            if index is None:
                arguments[key] = changed
            else:
                arguments[key][index] = changed
            with pytest.raises((RuntimeError, NotImplementedError)):
                op(**arguments)
            tried += 1
    assert tried >= 1


@needs_kernels
@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("_roi_align_forward", "features", [], "no feature maps"),
        ("_roi_align_forward", "scales", [0.25], "one scale per feature map"),
        ("_roi_align_forward", "scales", [0.25, 0.0], "scale 1 is 0, expected a positive number"),
        ("_roi_align_forward", "scales", [float("nan"), 1.0], "expected a positive number"),
        ("_roi_align_forward", "sampling_ratio", -1, "sampling_ratio is -1"),
        ("_roi_align_forward", "sampling_ratio", 2**31, "sampling_ratio is 2147483648"),
        ("_roi_align_backward", "sampling_ratio", 2**62, "sampling_ratio is"),
        ("_roi_align_forward", "canonical_level", 2**40, "canonical_level is 1099511627776"),
        ("_roi_align_forward", "output", torch.zeros(2, 3, 2**15, 1), r"up to 2\^15 - 1 cells"),
        ("_roi_align_forward", "rois", torch.zeros(2, 5).half(), "rois is Half"),
        ("_roi_align_forward", "rois", torch.zeros(2, 4), r"rois has shape \(2, 4, \), expected"),
        ("_masks_to_rle", "height", -1, "sides must be below"),
        ("_masks_to_rle", "width", 2**24, "sides must be below"),
        ("_masks_to_rle", "masks", torch.zeros(2, 0, 7), "masks have no values"),
        ("_bicubic_peaks", "sizes", torch.tensor([[20, 30], [0, 6]]), "region 1 has 0 x 6"),
        ("_bicubic_peaks", "sizes", torch.tensor([[2**24, 1], [1, 1]]), "region 0 has 16777216"),
        ("_bicubic_peaks", "sizes", torch.tensor([[1, 1], [2**20, 2**11]]), "region 1 has"),
        ("_bicubic_peaks", "maps", torch.zeros(2, 3, 0, 9), "sides of 1 to below"),
        ("_bitmask_targets", "instances", torch.tensor([0, 2]), "box 1 has instance 2 of 2"),
        ("_bitmask_targets", "instances", torch.tensor([-1, 0]), "box 0 has instance -1 of 2"),
        ("_polygon_mask_targets", "instances", torch.tensor([2**62, 0]), "box 0 has instance"),
        ("_polygon_mask_targets", "part_begin", torch.tensor([0, 8, 7]), "part_begin must not fall"),
        ("_polygon_mask_targets", "part_begin", torch.tensor([1, 3, 7]), "part_begin must begin"),
        ("_polygon_mask_targets", "part_begin", torch.tensor([0, 3, 9]), "part_begin must end with 7"),
        ("_polygon_mask_targets", "instance_begin", torch.tensor([0, 1, 3]), "must end with 2"),
        ("_polygon_mask_targets", "instance_begin", torch.tensor([0, -1, 2]), "must not fall"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_an_error(name, key, value, words):
    with pytest.raises(RuntimeError, match=words):
        getattr(OPS, name)(**{**arguments_of(name), key: value})


@needs_kernels
def test_an_output_may_not_be_one_of_the_inputs():
    arguments = arguments_of("_polygon_mask_targets")
    memory = torch.zeros(2, 1, 8, dtype=torch.bool)
    arguments.update(instances=memory.view(torch.int64).flatten(), output=memory)
    with pytest.raises(RuntimeError, match="output shares memory with an input"):
        OPS._polygon_mask_targets(**arguments)
    arguments = arguments_of("_roi_align_forward")
    arguments["features"][1] = arguments["output"].flatten()[: 2 * 3 * 4 * 5].view(2, 3, 4, 5)
    with pytest.raises(RuntimeError, match="output shares memory with an input"):
        OPS._roi_align_forward(**arguments)


@needs_kernels
def test_masks_without_pixels_have_no_targets():
    arguments = arguments_of("_bitmask_targets")
    arguments["masks"] = torch.ones(2, 0, 12, dtype=torch.bool)
    arguments["output"].fill_(True)
    OPS._bitmask_targets(**arguments)
    assert not arguments["output"].any()


# -- The differentiable ops, which also run without kernels -----------------------------------------

FIRST = torch.zeros(2, 3, 8, 9)


@pytest.mark.parametrize("kernels", [pytest.param(True, marks=needs_kernels), False])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"features": [FIRST, torch.zeros(1, 3, 4, 5)]}, ValueError, r"features\[1\] has \(N, C\)"),
        ({"features": [FIRST, torch.zeros(2, 3, 4, 5).double()]}, TypeError, r"features\[1\] is"),
        ({"features": [FIRST[0], FIRST[0]]}, ValueError, r"features\[0\] must be \(N, C, H, W\)"),
        ({"features": []}, ValueError, "features is empty"),
        ({"rois": torch.zeros(2, 4)}, ValueError, r"rois must be \(R, 5\)"),
        ({"rois": torch.zeros(2, 5).int()}, TypeError, "rois is torch.int32"),
        ({"rois": torch.full((2, 5), 2.0)}, ValueError, r"rois\[0\] has batch index 2"),
        ({"levels": torch.zeros(1).long()}, ValueError, r"levels must be \(2,\)"),
        ({"levels": torch.zeros(2)}, TypeError, "levels must be int64"),
        ({"scales": [0.25]}, ValueError, "2 features need as many scales"),
        ({"output_size": [7]}, ValueError, "output_size must be"),
        ({"output_size": [2**31, 1]}, ValueError, "output_size must be 32767 at most"),
        ({"sampling_ratio": 2**31}, ValueError, "sampling_ratio must be 0 .* not 2147483648"),
        ({"sampling_ratio": -(2**40)}, ValueError, "sampling_ratio must be 0"),
        ({"canonical_level": 2**40}, ValueError, "canonical_level must be below"),
        ({"canonical_box_size": float("nan")}, ValueError, "canonical_box_size must be positive"),
    ],
)
def test_pooling_checks_what_it_is_handed(kernels, change, error, words):
    arguments = {**roi_align_arguments(), "output_size": [7, 6], **change}
    with nullcontext() if kernels else without_kernels(), pytest.raises(error, match=words):
        OPS.roi_align_pyramid(**arguments)


@pytest.mark.parametrize("kernels", [pytest.param(True, marks=needs_kernels), False])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"grad_output": torch.zeros(1, 3, 7, 6)}, ValueError, "one for each of"),
        ({"grad_output": torch.zeros(2, 3, 7)}, ValueError, "grad_output must be"),
        ({"grad_output": torch.zeros(2, 3, 7, 6).int()}, TypeError, "grad_output is torch.int32"),
        ({"grad_output": torch.zeros(2, 3, 0, 6)}, ValueError, "the size of grad_output"),
        ({"heights": [8]}, ValueError, "heights, widths and scales must be as many"),
        ({"widths": [8, 2**31]}, ValueError, "sides 0 to 8388607"),
        ({"heights": [8, -4]}, ValueError, "sides 0 to"),
        ({"batch_size": -1}, ValueError, "batch_size must be 0 or more"),
        ({"batch_size": 1}, ValueError, r"rois\[1\] has batch index 1, but features hold 1"),
        ({"rois": torch.zeros(2, 4)}, ValueError, r"rois must be \(R, 5\)"),
        ({"sampling_ratio": 2**31}, ValueError, "sampling_ratio must be"),
    ],
)
def test_its_gradient_checks_what_it_is_handed(kernels, change, error, words):
    arguments = roi_align_arguments()
    del arguments["features"]
    arguments.update(
        grad_output=torch.rand(2, 3, 7, 6), batch_size=2, heights=[8, 4], widths=[9, 5],
        channels_last=False,
    )  # fmt: skip
    with nullcontext() if kernels else without_kernels():
        OPS.roi_align_pyramid_backward(**arguments)
        with pytest.raises(error, match=words):
            OPS.roi_align_pyramid_backward(**{**arguments, **change})
