# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Masks to RLE and dense masks, against Detectron2's paste and pycocotools' encode."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.layers.mask_ops import _do_paste_mask, paste_masks_in_image
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.layers import masks_to_rle, paste_masks
from mrcnn_ext.layers.kernels import has_kernels
from tests.helpers import run_python

THRESHOLDS = (0.5, 0.3, 0.0, 1.0, 0.01, 2.0)
# torch's own sampling has fused multiplications only in its vectorised code, which is what is followed.
needs_vectorised_torch = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="torch runs without AVX2 here: results are equal to rounding only",
)


def _encode(dense: torch.Tensor) -> list[bytes]:
    columns = [np.asfortranarray(mask.numpy().astype(np.uint8)) for mask in dense]
    return [mask_util.encode(item)["counts"] for item in columns]


def _masks(generator, count: int, height: int, width: int, kind: str) -> torch.Tensor:
    masks = torch.rand(count, height, width, generator=generator)
    if kind == "binary":
        return (masks > 0.5).float()
    if kind == "smooth":
        return torch.nn.functional.avg_pool2d(masks[:, None], 3, 1, 1)[:, 0]
    if kind == "odd":
        masks[0, 0, 0] = float("nan")
        masks[-1, -1, -1] = float("inf")
        masks[:, height // 2] = 7.0
    return masks


def _boxes(generator, count: int, height: int, width: int, kind: str) -> torch.Tensor:
    """Boxes that Detectron2 can paste: the region that they touch is not empty."""
    sides = torch.tensor([width, height])
    centres = torch.rand(count, 2, generator=generator) * sides
    scale = {"usual": 1.0, "tiny": 0.02, "huge": 50.0, "empty": 0.0, "whole": 1.0}[kind]
    half = torch.rand(count, 2, generator=generator) ** 2 * sides * scale * 0.7
    boxes = torch.cat([centres - half, centres + half], dim=1)
    return boxes.round() if kind == "whole" else boxes


@needs_vectorised_torch
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    side=st.integers(1, 40),
    image=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    mask_kind=st.sampled_from(["noise", "binary", "smooth", "odd"]),
    box_kind=st.sampled_from(["usual", "tiny", "huge", "empty", "whole"]),
)
def test_identical_to_paste_and_encode(seed, side, image, mask_kind, box_kind):
    generator = torch.Generator().manual_seed(seed)
    masks = _masks(generator, 4, side, side, mask_kind)
    boxes = _boxes(generator, 4, *image, box_kind)
    for threshold in THRESHOLDS:
        expected = paste_masks_in_image(masks, boxes, image, threshold)
        assert torch.equal(paste_masks(masks, boxes, image, threshold), expected)
        rles = masks_to_rle(masks, Boxes(boxes), image, threshold)
        assert [rle["counts"] for rle in rles] == _encode(expected)
        assert all(rle["size"] == list(image) for rle in rles)
    if mask_kind != "odd":  # numbers beyond 255 have no meaning there
        expected = paste_masks_in_image(masks, boxes, image, -1)
        assert torch.equal(paste_masks(masks, boxes, image, -1), expected)


@needs_vectorised_torch
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30))
def test_masks_that_are_not_square(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    masks = _masks(generator, 3, height, width, "noise")
    boxes = _boxes(generator, 3, 50, 70, "usual")
    for i in range(3):
        values, region = _do_paste_mask(masks[i : i + 1, None], boxes[i : i + 1], 50, 70)
        expected = torch.zeros(1, 50, 70, dtype=torch.bool)
        expected[(slice(None), *region)] = values >= 0.5
        assert torch.equal(paste_masks(masks[i : i + 1], boxes[i : i + 1], (50, 70)), expected)
        (rle,) = masks_to_rle(masks[i : i + 1, None], boxes[i : i + 1], (50, 70))
        assert rle["counts"] == _encode(expected)[0]


def test_boxes_that_detectron2_cannot_paste_give_empty_masks():
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [
            *([nan, 1, 5, 5], [1, 1, nan, 5], [nan] * 4, [inf, inf, inf, inf], [-inf, 1, inf, 5]),
            *([200, 200, 300, 300], [-90, -90, -80, -80], [30, 30, 10, 10], [1e30, 0, 2e30, 5]),
        ]
    )
    masks = torch.ones(len(boxes), 14, 14)
    rles = masks_to_rle(masks, boxes, (40, 60))
    assert [rle["counts"] for rle in rles] == _encode(torch.zeros(len(boxes), 40, 60))
    assert not paste_masks(masks, boxes, (40, 60)).any()


def test_dtypes_are_sampled_in_float32():
    boxes = torch.tensor([[3.2, 4.1, 30.7, 25.3]])
    masks = torch.rand(1, 14, 14, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        cast = masks.to(dtype)
        assert masks_to_rle(cast, boxes, (40, 50)) == masks_to_rle(cast.float(), boxes, (40, 50))
    binary = masks > 0.5
    for cast in (binary, binary.to(torch.uint8)):
        assert masks_to_rle(cast, boxes, (40, 50)) == masks_to_rle(binary.float(), boxes, (40, 50))


def test_nothing_and_bad_arguments():
    assert masks_to_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 10)) == []
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 20)).shape == (0, 10, 20)
    masks, boxes = torch.rand(2, 28, 28), torch.rand(2, 4)
    with pytest.raises(ValueError, match=r"masks have shape \(28, 28\)"):
        masks_to_rle(masks[0], boxes, (10, 10))
    with pytest.raises(ValueError, match=r"expected \(2, 4\)"):
        paste_masks(masks, boxes[:1], (10, 10))
    with pytest.raises(ValueError, match="0 or more"):
        masks_to_rle(masks, boxes, (10, 10), threshold=-1)
    with pytest.raises(ValueError, match="image size"):
        masks_to_rle(masks, boxes, (10, 10, 3))


def test_threads_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    masks, boxes = _masks(generator, 64, 28, 28, "noise"), _boxes(generator, 64, 200, 300, "usual")
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            dense = paste_masks(masks, boxes, (200, 300))
            results.append((masks_to_rle(masks, boxes, (200, 300)), dense))
    finally:
        torch.set_num_threads(before)
    assert all(rles == results[0][0] for rles, _ in results)
    assert all(torch.equal(dense, results[0][1]) for _, dense in results)


_OTHER_PATH = """
import json, torch
from mrcnn_ext.layers import masks_to_rle, paste_masks
generator = torch.Generator().manual_seed(3)
masks = torch.rand(6, 14, 14, generator=generator)
corners = torch.rand(6, 2, generator=generator) * 60 - 10
boxes = torch.cat([corners, corners + 50 * torch.rand(6, 2, generator=generator)], dim=1)
boxes[0, 0], boxes[1] = float("nan"), torch.tensor([500, 500, 600, 600])
result = []
for threshold in (0.5, 0.0):
    result.append([x["counts"].decode() for x in masks_to_rle(masks, boxes, (60, 80), threshold)])
    result.append(paste_masks(masks, boxes, (60, 80), threshold).sum((1, 2)).tolist())
result.append(paste_masks(masks, boxes, (60, 80), -1).sum((1, 2)).tolist())
print(json.dumps(result))
"""


@needs_vectorised_torch
def test_without_kernels_and_with_other_instructions_results_are_the_same():
    if not has_kernels("_C_cpu"):
        pytest.skip("the CPU library is not built")
    results = []
    for env in ({}, {"MRCNN_EXT_KERNELS": "0"}, {"MRCNN_EXT_CPU_CAPABILITY": "generic"}):
        done = run_python(["-W", "ignore", "-c", _OTHER_PATH], env=env)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert results[0] == results[1] == results[2]
    assert any(sum(counts) for counts in results[0][1::2])
