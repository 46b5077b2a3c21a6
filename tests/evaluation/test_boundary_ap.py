# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Boundary IoU and Boundary AP against plain loops over whole images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from mrcnn_ext.evaluation import (
    EvaluationSettings,
    GroundTruth,
    boundary_iou,
    boundary_of_rle,
    dilation_pixels,
    evaluate_records,
)
from tests.evaluation.evaluation_cases import (
    assert_same,
    blob,
    coco_of,
    encode,
    make_case,
    pycocotools_stats,
    stats_of,
)


def brute_boundary(mask: np.ndarray, dilation: int) -> np.ndarray:
    """A pixel is eroded away if any pixel less than ``dilation`` + 1 away is zero or outside."""
    height, width = mask.shape
    boundary = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            for dy in range(-dilation, dilation + 1):
                for dx in range(-dilation, dilation + 1):
                    inside = 0 <= y + dy < height and 0 <= x + dx < width
                    if mask[y, x] and not (inside and mask[y + dy, x + dx]):
                        boundary[y, x] = 1
    return boundary


def whole_image_boundary(mask: np.ndarray, dilation: int) -> np.ndarray:
    """The same, ring by ring, for larger images."""
    eroded = np.pad(mask, 1)
    for _ in range(dilation):
        around = np.pad(eroded, 1)
        height, width = eroded.shape
        shifts = [around[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        eroded = np.minimum.reduce(shifts)
    return mask - eroded[1:-1, 1:-1]


def pixels(boundary, height, width) -> np.ndarray:
    image = np.zeros((height, width), dtype=np.uint8)
    w, h = boundary.pixels.shape
    image[boundary.y0 : boundary.y0 + h, boundary.x0 : boundary.x0 + w] = boundary.pixels.T
    return image


def iou(first, second) -> float:
    union = np.logical_or(first, second).sum()
    return np.logical_and(first, second).sum() / union if union else 0.0


masks = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 24), st.floats(0, 1)
).map(lambda t: (np.random.default_rng(t[0]).random(t[1:3]) < t[3]).astype(np.uint8))


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(1, 4))
def test_boundary_is_what_the_loops_say(mask, dilation):
    found = pixels(boundary_of_rle(encode(mask), dilation), *mask.shape)
    assert (found == brute_boundary(mask, dilation)).all()
    assert (found == whole_image_boundary(mask, dilation)).all()


@pytest.mark.parametrize("seed", range(20))
def test_boundary_of_large_masks_at_the_borders(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(30, 150, 2)
    mask = blob(rng, height, width, (rng.integers(-9, 9), rng.integers(-9, 9), width, height))
    other = blob(rng, height, width)
    dilation = dilation_pixels(height, width, rng.choice([0.02, 0.05]))
    first, second = (boundary_of_rle(encode(m), dilation) for m in (mask, other))
    expected = [whole_image_boundary(m, dilation) for m in (mask, other)]
    assert (pixels(first, height, width) == expected[0]).all()
    assert boundary_iou(first, second) == iou(*expected)


def test_a_full_image_has_a_boundary_and_an_empty_mask_has_none():
    full = boundary_of_rle(encode(np.ones((20, 30))), 2)
    assert full.area == 20 * 30 - 16 * 26
    empty = boundary_of_rle(encode(np.zeros((20, 30))), 2)
    assert empty.area == 0
    assert boundary_iou(full, empty) == boundary_iou(empty, empty) == 0


def test_width_is_two_percent_of_the_diagonal():
    assert dilation_pixels(300, 400) == 10
    assert dilation_pixels(3, 4) == 1
    assert dilation_pixels(30, 40, 0.1) == 5


def test_equals_the_boundaries_of_faster_coco_eval():
    mask_api = pytest.importorskip("faster_coco_eval.core.mask")
    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = blob(rng, 120, 90)
        rle = mask_util.encode(np.asfortranarray(mask))
        theirs = mask_api.decode(mask_api.rleToBoundary(rle, 0.02))
        ours = pixels(boundary_of_rle(encode(mask), dilation_pixels(120, 90)), 120, 90)
        assert (theirs.reshape(ours.shape) == ours).all()


@pytest.mark.parametrize("seed", range(3))
def test_boundary_ap_with_all_overlaps_from_whole_images(seed, backend, monkeypatch):
    dataset, records = make_case(seed)
    coco = coco_of(dataset)
    ours = evaluate_records(
        records, GroundTruth(coco), EvaluationSettings(["boundary"], backend=backend)
    )["boundary"]

    # pycocotools' mask AP, whose overlaps are replaced by min(mask, boundary), every pair of them.
    def both(first, second, crowds):
        overlaps = mask_iou(first, second, crowds)
        for i, one in enumerate(first):
            for j, other in enumerate(second):
                if not crowds[j]:
                    decoded = [mask_util.decode(rle) for rle in (one, other)]
                    dilation = dilation_pixels(*decoded[0].shape)
                    value = iou(*(whole_image_boundary(m, dilation) for m in decoded))
                    overlaps[i, j] = min(overlaps[i, j], value)
        return overlaps

    mask_iou = mask_util.iou
    monkeypatch.setattr("pycocotools.cocoeval.maskUtils.iou", both)
    expected = stats_of(pycocotools_stats(dataset, records, "segm"), "segm")
    assert expected["AP"] > 0
    assert_same(ours, expected)
