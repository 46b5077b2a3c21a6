# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Masks in views, rims and tints are those of whole pictures; labels find free places."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_util

from mrcnn_ext.errors import DataError
from mrcnn_ext.visualization import compared_keypoints, compared_masks
from mrcnn_ext.visualization.colors import rgb
from mrcnn_ext.visualization.compared import KEYPOINT_COLORS, MASK_COLORS
from mrcnn_ext.visualization.labels import Label, write_labels
from mrcnn_ext.visualization.primitives import Patch, View, contours, mask_patch, rim, tint

SIZE = (90, 120)


def _mask(seed: int) -> np.ndarray:
    """Some blobs with holes; some touch the border."""
    noise = np.random.default_rng(seed).normal(size=SIZE)
    return (cv2.GaussianBlur(noise, (0, 0), 5) > 0.03).astype(np.uint8)


def _whole(patch: Patch, shape) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    patch.of(canvas)[:] = patch.mask
    return canvas


@pytest.mark.parametrize("place", [(30, 60, 20, 50), (0, 90, 0, 120), (0, 10, 80, 120)])
def test_a_patch_is_the_mask_in_its_box(place):
    mask = np.zeros(SIZE, np.uint8)
    y0, y1, x0, x1 = place
    mask[y0:y1, x0:x1] = _mask(1)[y0:y1, x0:x1]
    for form in (mask, mask.astype(bool), 0.9 * mask, mask_util.encode(np.asfortranarray(mask))):
        patch = mask_patch(form, SIZE)
        assert np.array_equal(_whole(patch, SIZE), mask)
        assert patch.mask.size <= (y1 - y0) * (x1 - x0)
    assert mask_patch(np.zeros(SIZE), SIZE).mask.size == 0
    with pytest.raises(DataError, match=r"\(90, 120\), its image \(9, 9\)"):
        mask_patch(mask, (9, 9))


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7, 4.0])
def test_masks_are_enlarged_as_whole_pictures_are(scale):
    mask = _mask(2)
    view = View.whole(SIZE, scale)
    resized = cv2.resize(mask.astype(np.float32), view.shape[::-1], interpolation=cv2.INTER_LINEAR)
    found = _whole(view.mask(mask), view.shape)
    assert (found != (resized >= 0.5)).mean() < 0.01  # OpenCV's warping counts in 32nds of a pixel
    image = np.repeat(mask[..., None], 3, axis=2)
    assert view.image(image).shape == (*view.shape, 3)
    assert np.allclose(view.points([(120.0, 90.0)]), [view.shape[::-1]])
    assert np.allclose(view.boxes(np.array([0.0, 0, 120, 90])), [[0, 0, *view.shape[::-1]]])


def test_a_view_around_a_box_shows_what_is_there():
    mask = np.zeros(SIZE, np.uint8)
    mask[40:60, 50:80] = 1
    view = View.around((50, 40, 80, 60), SIZE, side=270, margin=1.5)
    corners = view.points([(50, 40), (80, 60)])
    assert np.allclose(corners, [(45, 75), (225, 195)])  # 6 pixels to one
    shown = _whole(view.mask(mask), view.shape)
    assert np.array_equal(np.flatnonzero(shown.any(0))[[0, -1]], [45, 224])
    assert np.array_equal(np.flatnonzero(shown.any(1))[[0, -1]], [75, 194])
    image = view.image(np.repeat(200 * mask[..., None], 3, axis=2))
    assert (image[80:190, 50:220] > 190).all()
    far = View.around((0, 0, 8, 8), SIZE, side=100, margin=4)
    assert far.mask(mask).mask.size == 0
    assert (far.image(image[:90, :120])[:5, :5] == 245).all()  # outside of the image


@pytest.mark.parametrize("width", [1, 2])
def test_rims_are_those_of_an_eroded_picture(width):
    mask = _mask(3)
    mask[40:50] = 0
    inner = cv2.erode(mask, np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    for part in (mask, np.where(np.arange(120) < 60, mask, 0).astype(np.uint8)):
        inner = cv2.erode(part, np.ones((2 * width + 1, 2 * width + 1), np.uint8))
        found = rim(mask_patch(part, SIZE), SIZE, width)
        assert np.array_equal(_whole(found, SIZE), part - inner)


def test_tints_and_contours_are_in_their_place():
    mask = np.zeros(SIZE, np.uint8)
    mask[20:40, 30:70] = 1
    mask[25:30, 40:50] = 0
    patch = mask_patch(mask, SIZE)
    canvas = np.full((*SIZE, 3), 100, np.uint8)
    tint(canvas, patch, (200, 0, 100), 0.5)
    assert (canvas[mask == 1] == (150, 50, 100)).all()
    assert (canvas[mask == 0] == 100).all()
    expected = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
    found = contours(patch)
    assert len(found) == len(expected) == 2
    for line, other in zip(found, expected):
        assert np.array_equal(line, other)
    assert contours(mask_patch(0 * mask, SIZE)) == []


def test_compared_masks_show_each_kind_of_pixel():
    grey = np.full((60, 90, 3), 128, np.uint8)
    truth, mask = np.zeros((60, 90), np.uint8), np.zeros((60, 90), np.uint8)
    truth[10:50, 10:60], mask[10:50, 30:80] = 1, 1
    view = View.whole((60, 90), 1.0)
    picture = compared_masks(grey, view.mask(mask), view.mask(truth)).astype(int)
    pale = 0.55 * 128 + 90
    for kind, x, alpha in (("right", 45, 0.35), ("false_positive", 70, 0.7),
                           ("false_negative", 20, 0.7)):  # fmt: skip
        expected = (1 - alpha) * pale + alpha * np.array(rgb(MASK_COLORS[kind]))
        assert np.abs(picture[30, x] - expected).max() <= 2
    assert np.abs(picture[5, 5] - pale).max() <= 1
    assert picture[30, 10].min() > 220  # the outline of the truth
    assert (grey == 128).all()


def test_compared_keypoints_show_errors():
    grey = np.full((100, 100, 3), 128, np.uint8)
    truth = np.array([[20.5, 20.5], [80.5, 20.5], [50.5, 90.5]])
    seen = np.array([True, True, False])
    alone = compared_keypoints(grey, truth, truth, [(0, 1), (1, 2)], seen=seen)
    assert tuple(alone[20, 50]) == (255, 255, 255)
    assert tuple(alone[55, 65]) == tuple(alone[99, 99])  # no limb to a point that is not seen
    moved = compared_keypoints(grey, truth + (0, 40), truth, [(0, 1)], seen=seen)
    assert tuple(moved[60, 50]) == rgb(KEYPOINT_COLORS["predicted"])
    assert tuple(moved[40, 80]) == rgb(KEYPOINT_COLORS["error"])
    assert tuple(moved[20, 20]) == (255, 255, 255)


def test_labels_do_not_cover_each_other():
    ground = np.full((200, 300, 3), 128, np.uint8)
    red, blue = (200, 0, 0), (0, 0, 200)
    box = (100, 80, 180, 140)
    both = write_labels(ground, [Label("first", box, red), Label("second", box, blue)], 14)
    for color, text in ((red, "first"), (blue, "second")):
        alone = write_labels(ground, [Label(text, box, color)], 14)
        areas = [(picture == color).all(axis=2).sum() for picture in (alone, both)]
        assert areas[0] == areas[1] > 100
    # Ten labels for a picture with room for less: left out, or over one another.
    small = np.full((40, 90, 3), 128, np.uint8)
    crowd = [Label("a label", (5, 5, 80, 35), red)] * 10
    left_out = write_labels(small, crowd, 14)
    on_boxes = write_labels(small, [*crowd, Label("b", (5, 5, 80, 35), blue)], 14, on_boxes=True)
    assert (left_out != 128).any()
    assert (on_boxes == red).all(axis=2).any()
    assert (on_boxes == blue).all(axis=2).any()
    assert np.array_equal(write_labels(ground, [Label("", box, red)], 14), ground)
