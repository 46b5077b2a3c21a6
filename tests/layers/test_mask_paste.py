# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""masks_to_rle and paste_masks against Detectron2's paste and pycocotools' encode."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from mrcnn_ext.layers import kernel_status, mask_paste, masks_to_rle, paste_masks
from mrcnn_ext.layers.mask_paste.ops import compiled_arithmetic
from tests.helpers import run_python
from tests.layers.mask_reference import Case, check, encode, make_case, reference

SETTINGS = settings(deadline=None, max_examples=1000)
COMPILED = kernel_status()[0].loaded


@SETTINGS
@given(st.integers(0, 2**31))
def test_same_pixels_and_strings_as_detectron2(seed):
    check(make_case(seed))


@pytest.mark.skipif(not COMPILED, reason="this is what runs anyway")
@settings(SETTINGS, max_examples=400)
@given(st.integers(0, 2**31))
def test_same_without_kernels(seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_paste.ops, "compiled_arithmetic", lambda: None)
        check(make_case(seed))


def test_the_reference_is_detectron2s_public_function():
    for seed in range(200):
        case = make_case(seed)
        height, width = case.image_size
        case.boxes = case.boxes.nan_to_num()
        case.boxes[:, ::2] = case.boxes[:, ::2].clamp(0, width)
        case.boxes[:, 1::2] = case.boxes[:, 1::2].clamp(0, height)
        upright = bool((case.boxes[:, 2:] >= case.boxes[:, :2]).all())
        if case.masks.shape[1] == case.masks.shape[2] and upright:
            expected = paste_masks_in_image(case.masks, case.boxes, case.image_size, case.threshold)
            assert torch.equal(reference(case), expected)


# ATen's arithmetic and this package's instruction set are chosen independently.
@pytest.mark.slow
@pytest.mark.skipif(not COMPILED, reason="no kernels to choose from")
@pytest.mark.parametrize("kernels", ["generic", "avx2", "avx512"])
@pytest.mark.parametrize("aten", ["default", "avx2"])
def test_same_with_every_instruction_set_and_arithmetic(aten, kernels):
    environment = {"ATEN_CPU_CAPABILITY": aten, "MRCNN_EXT_CPU_CAPABILITY": kernels}
    result = run_python(["-W", "ignore", "-m", "tests.layers.mask_reference", 250], env=environment)
    if "this processor does not have" in result.stderr:
        pytest.skip(f"no {kernels} here")
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"({kernels})" in result.stdout
    if f"torch {aten.upper()}" in result.stdout:
        assert result.stdout.split()[-1] == str(aten != "default")  # products are fused


@pytest.mark.slow
def test_same_in_a_process_without_kernels():
    result = run_python(
        ["-W", "ignore", "-m", "tests.layers.mask_reference", 250], env={"MRCNN_EXT_KERNELS": "0"}
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "MRCNN_EXT_KERNELS=0; None" in result.stdout


def _large(number: int = 6, side: int = 28) -> Case:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(number, 2, generator=generator) * 500
    sizes = 20 * 30 ** torch.rand(number, 2, generator=generator)
    boxes = torch.cat([corners, corners + sizes], dim=1)
    logits = torch.randn(number, 1, 5, 5, generator=generator) * 8
    masks = torch.nn.functional.interpolate(logits, (side, side), mode="bicubic")[:, 0].sigmoid()
    return Case(masks, boxes, (700, 900), 0.5)


@pytest.mark.parametrize("side", [14, 28, 112])
def test_large_images(side):
    assert check(_large(side=side)) > 10_000


def test_threads_change_nothing():
    case = _large(40)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(masks_to_rle(case.masks, case.boxes, case.image_size))
    assert results[0] == results[1] == encode(reference(case))


def test_kernels_are_used_where_they_can_be():
    # Where torch's own arithmetic is unknown, results would be right, and slow, without notice.
    assert (compiled_arithmetic() is None) == (not COMPILED)


def test_masks_with_a_channel_boxes_objects_and_gradients():
    case = _large()
    expected = masks_to_rle(case.masks, case.boxes, case.image_size)
    masks = case.masks[:, None].clone().requires_grad_()
    assert masks_to_rle(masks, Boxes(case.boxes), case.image_size) == expected
    turned = case.masks.transpose(1, 2).contiguous().transpose(1, 2)  # not contiguous
    assert masks_to_rle(turned, case.boxes, case.image_size) == expected
    assert torch.equal(
        paste_masks(masks, Boxes(case.boxes), case.image_size),
        paste_masks(turned, case.boxes, case.image_size),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.uint8])
def test_other_types_are_pasted_in_float32(dtype):
    case = _large()
    masks = (case.masks if dtype.is_floating_point else (case.masks > 0.5)).to(dtype)
    expected = encode(reference(Case(masks.float(), case.boxes, case.image_size, 0.5)))
    assert masks_to_rle(masks, case.boxes, case.image_size) == expected
    assert encode(paste_masks(masks, case.boxes, case.image_size)) == expected


def test_float64_masks_are_as_detectron2s():
    case = _large()
    masks = case.masks.double()
    expected = paste_masks_in_image(masks, case.boxes, case.image_size)
    assert torch.equal(paste_masks(masks, case.boxes, case.image_size), expected)
    assert masks_to_rle(masks, case.boxes, case.image_size) == encode(expected)


def test_no_threshold():
    case = _large()
    expected = paste_masks_in_image(case.masks, case.boxes, case.image_size, -1)
    result = paste_masks(case.masks, case.boxes, case.image_size, -1)
    assert result.dtype == torch.uint8
    assert torch.equal(result, expected)
    assert result.unique().numel() > 100


def test_nothing_to_paste():
    masks, boxes = torch.zeros(0, 28, 28), torch.zeros(0, 4)
    assert masks_to_rle(masks, boxes, (5, 7)) == []
    expected = paste_masks_in_image(masks, boxes, (5, 7))
    result = paste_masks(masks, boxes, (5, 7))
    assert result.shape == expected.shape == (0, 5, 7)
    assert result.dtype == expected.dtype
    one, box = torch.ones(1, 28, 28), torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    for size in ((0, 7), (5, 0)):
        assert paste_masks(one, box, size).shape == (1, *size)
        assert masks_to_rle(one, box, size)[0]["counts"] == b"0"
        assert mask_util.encode(np.zeros(size, np.uint8, order="F"))["counts"] == b"0"


def test_the_result_of_a_paste_is_an_ordinary_tensor():
    case = _large()
    images = paste_masks(case.masks, case.boxes, case.image_size)
    expected = images.clone()
    images |= True
    assert images.all()
    assert not expected.all()
    assert torch.equal(images & expected, expected)


BOX = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
MASK = torch.ones(1, 28, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MASK[0], BOX, (9, 9)), r"masks must be .* but has shape \(28, 28\)"),
        ((MASK, BOX[0], (9, 9)), r"boxes must be \(1, 4\), .* but has shape \(4,\)"),
        ((MASK, BOX[[0, 0]], (9, 9)), r"boxes must be \(1, 4\), .* but has shape \(2, 4\)"),
        ((MASK[:, :0], BOX, (9, 9)), "a mask has no values"),
        ((MASK, BOX, (-1, 9)), r"image size is \(-1, 9\)"),
        ((MASK, BOX, (9, 2**24)), r"image size is \(9, 16777216\)"),
        ((MASK, BOX.to("meta"), (9, 9)), "masks is on cpu, but boxes is on meta"),
    ],
)
@pytest.mark.parametrize("function", [masks_to_rle, paste_masks])
def test_bad_arguments(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize("threshold", [-0.1, math.nan])
def test_run_lengths_need_a_threshold(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}; it must be 0 or more"):
        masks_to_rle(MASK, BOX, (9, 9), threshold)


def test_run_lengths_of_too_large_an_image():
    with pytest.raises(ValueError, match="run lengths end at"):
        masks_to_rle(MASK, BOX, (2**17, 2**16))
