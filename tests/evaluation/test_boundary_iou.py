# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Boundary IoU against a distance transform of the whole image."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from scipy import ndimage

from mrcnn_ext.evaluation.boundary import (
    boundary_of_rle,
    dilation_pixels,
    mask_and_boundary_iou,
)


def _whole_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Pixels of a mask within a distance of what is outside of it, the image's edge included."""
    depth = ndimage.distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1]
    return mask.astype(bool) & (depth <= distance)


def _rle(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.floats(0.3, 1), st.integers(0, 99)
)
def test_boundary_is_what_lies_within_a_distance_of_the_outside(
    height, width, distance, part, seed
):
    rng = np.random.default_rng(seed)
    coarse = (rng.random((-(-height // 5), -(-width // 5))) < part).astype(np.uint8)
    mask = np.ascontiguousarray(np.kron(coarse, np.ones((5, 5), np.uint8))[:height, :width])
    boundary = boundary_of_rle(_rle(mask), distance)
    found = np.zeros((width, height), bool)
    w, h = boundary.pixels.shape
    found[boundary.x0 : boundary.x0 + w, boundary.y0 : boundary.y0 + h] = boundary.pixels
    np.testing.assert_array_equal(found.T, _whole_boundary(mask, distance))


def test_ious_are_those_of_whole_images():
    rng = np.random.default_rng(0)
    for _ in range(10):
        masks = np.zeros((2, 90, 130), np.uint8)
        for mask in masks:
            x, y = rng.integers(0, 70, 2)
            mask[y : y + rng.integers(5, 60), x : x + rng.integers(5, 80)] = 1
        a, b = (_whole_boundary(m, dilation_pixels(90, 130)) for m in masks)
        expected = [masks.all(0).sum() / masks.any(0).sum(), (a & b).sum() / (a | b).sum()]
        np.testing.assert_allclose(mask_and_boundary_iou(*map(_rle, masks)), expected)


def test_empty_masks_and_small_images():
    empty = _rle(np.zeros((90, 130), np.uint8))
    assert mask_and_boundary_iou(empty, empty) == (0, 0)
    assert dilation_pixels(10, 10) == 1
    assert dilation_pixels(480, 640) == 16
