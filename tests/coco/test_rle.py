# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""RLE against pycocotools: round trips, every form of segmentation, damaged counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from mrcnn_ext.coco.rle import (
    encode_mask,
    mask_crop,
    rle_areas,
    rle_box,
    rle_counts,
    rle_runs,
    text_rle,
    to_rle,
)
from tests.evaluation.evaluation_cases import encode

masks = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 24), st.floats(0, 1)
).map(lambda t: (np.random.default_rng(t[0]).random(t[1:3]) < t[3]).astype(np.uint8))


@settings(max_examples=150, deadline=None)
@given(masks)
def test_runs_and_crops_of_any_mask(mask):
    rle = encode(mask)
    runs = rle_runs(rle)
    assert runs.sum() == mask.size
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    assert np.array_equal(flat.reshape(mask.shape[::-1]).T, mask)
    assert (rle_runs({"size": rle["size"], "counts": runs.tolist()}) == runs).all()
    x0, y0, crop = mask_crop(rle)
    whole = np.zeros_like(mask)
    whole[y0 : y0 + crop.shape[1], x0 : x0 + crop.shape[0]] = crop.T
    assert (whole == mask).all()
    if mask.any():
        assert all(edge.any() for edge in (crop[0], crop[-1], crop[:, 0], crop[:, -1]))


def test_runs_of_a_large_image():
    mask = np.zeros((3000, 2500), dtype=np.uint8)
    mask[5:2990, 1000:1500:7] = 1
    rle = encode(mask)
    assert mask_util.area(rle) == rle_runs(rle)[1::2].sum() == mask.sum()


# ---------------------------------------------------------------------------- any segmentation


@settings(max_examples=100, deadline=None)
@given(masks)
def test_every_form_of_a_mask_is_the_same_rle(mask):
    expected = mask_util.encode(np.asfortranarray(mask))
    size = list(mask.shape)
    text = expected["counts"].decode()
    forms = {
        "bytes": expected,
        "text": {"size": size, "counts": text},
        "tuple": {"size": tuple(size), "counts": text},
        "runs": {"size": size, "counts": rle_runs(expected).tolist()},
        "list": [{"size": size, "counts": text}],
        "array": mask,
        "bool": mask.astype(bool),
        "float": mask.astype(np.float32),
        "tensor": torch.from_numpy(mask),
        "0 and 255": mask * 255,
    }
    for name, form in forms.items():
        assert text_rle(to_rle(form, *mask.shape)) == {"size": size, "counts": text}, name
    assert encode_mask(mask) == expected
    assert rle_areas([expected]) == [int(mask.sum())]
    assert rle_box(expected) == mask_util.toBbox(expected).tolist()


@settings(max_examples=60, deadline=None)
@given(masks, masks)
def test_a_list_of_rles_is_their_union(first, second):
    height, width = np.maximum(first.shape, second.shape)
    whole = np.zeros((2, height, width), dtype=np.uint8)
    whole[0, : first.shape[0], : first.shape[1]] = first
    whole[1, : second.shape[0], : second.shape[1]] = second
    united = to_rle([encode(whole[0]), encode(whole[1])], int(height), int(width))
    assert (mask_util.decode(united) == whole.max(axis=0)).all()


@pytest.mark.parametrize("seed", range(10))
def test_polygons_are_drawn_as_pycocotools_draws_them(seed):
    rng = np.random.default_rng(seed)
    polygons = [rng.uniform(-10, 90, 2 * rng.integers(3, 9)).tolist() for _ in range(3)]
    expected = mask_util.merge(mask_util.frPyObjects(polygons, 60, 80))
    assert to_rle(polygons, 60, 80) == expected
    assert to_rle([np.array(p) for p in polygons], 60, 80) == expected
    # Lines and points are nothing, also first in the list, where pycocotools takes 4 numbers for a box.
    assert to_rle([[1, 2, 3, 4], *polygons, [5, 6]], 60, 80) == expected


@pytest.mark.parametrize("nothing", [[], [[]], [[1, 2, 3, 4]]])
def test_no_polygon_is_an_empty_mask(nothing):
    assert rle_areas([to_rle(nothing, 6, 8)]) == [0]


def test_areas_of_more_masks_than_pycocotools_counts_at_once():
    rles = [encode_mask(np.arange(400).reshape(20, 20) < number) for number in range(400)]
    assert rle_areas(rles) == list(range(400))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (3, "neither polygons nor RLE nor a mask, but 3"),
        ("PPYo0", "neither polygons nor RLE"),
        ({"counts": "PPYo0"}, "no RLE with 'size' and 'counts'"),
        ({"size": [5, 5], "counts": "PPYo0"}, "a mask of 5 x 5 pixels, but the image has 8 x 6"),
        ({"size": [6], "counts": "0"}, r"its size is \[6\], expected \[height, width\]"),
        ({"size": ["6", 8], "counts": "0"}, "its size is"),
        ({"size": None, "counts": "0"}, "its size is None"),
        (np.zeros((8, 6)), "a mask of 6 x 8 pixels, but the image has 8 x 6"),
        ([1, 2, 3, 4, 5, 6], "not lists of numbers"),
        ([[[1, 2], [3, 4], [5, 6], [1, 2], [3, 4], [5, 6]]], "flat lists of numbers"),
        ([["a"] * 6], "not lists of numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "NaN or beyond"),
        ([[1, 2, 3, 4, 5, 1e9]], "NaN or beyond"),
        ([[1, 2, 3, 4, 5, 10**400]], "not lists of numbers"),
        ([{"size": [6, 8], "counts": [48]}, [1, 2, 3, 4, 5, 6, 7]], "not lists of numbers"),
    ],
)
def test_what_is_no_segmentation_is_one_error(segmentation, message):
    with pytest.raises(ValueError, match=message):
        to_rle(segmentation, 6, 8)


# ------------------------------------------------------------------------------------ damaged counts


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([40], r"do not fill an image of 8 x 6 pixels \(they add up to 40, expected 48\)"),
        ([50, -2], "negative"),
        ([49], "longer than its image"),
        ([2**62] * 4 + [48], "longer than its image"),  # the sum would overflow to 48
        ([2**70], "not whole numbers"),
        ([40, 8.0], "not whole numbers"),
        ([[48]], "not whole numbers"),
        ([[1], [2, 3]], "not whole numbers"),
        (["48"], "not whole numbers"),
        ([None], "not whole numbers"),
        (None, "its counts are None, not a string or a list"),
        (48, "its counts are 48"),
        ("", "they add up to 0"),
        ("P", "breaks off"),
        ("0 1", "characters that COCO's RLE does not use"),
        ("0é", "characters that COCO's RLE does not use"),
        ("oooooooo0", "beyond 32 bits"),
        ("O", "negative"),
    ],
)
def test_damaged_counts_are_one_error(counts, message):
    with pytest.raises(ValueError, match=message):
        rle_runs({"size": [6, 8], "counts": counts})


def test_an_image_of_more_pixels_than_pycocotools_counts():
    with pytest.raises(ValueError, match="more pixels than 32 bits can count"):
        rle_runs({"size": [2**17, 2**16], "counts": [2**33]})


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_any_string_is_decoded_or_refused(text):
    try:
        counts = rle_counts(text)
    except ValueError:
        return
    assert (counts >= 0).all()
    if not text:
        assert len(counts) == 0
        return
    # pycocotools agrees on what the string says (its areas are of 32 bits).
    if counts.sum() < 2**20:
        assert mask_util.area({"size": [1, 2**20], "counts": text}) == counts[1::2].sum()
