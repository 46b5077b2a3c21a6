# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask targets: bit for bit Detectron2's and pycocotools', and defined where those are not."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.layers import PackedPolygons, bitmask_targets, kernel_status, polygon_mask_targets
from mrcnn_ext.layers.mask_targets import fallback
from tests.helpers import REPO, run_python

NAN, INF = float("nan"), float("inf")
needs_kernels = pytest.mark.skipif(not kernel_status()[0].loaded, reason="needs compiled kernels")


def expected(polygons: list, boxes: torch.Tensor, side: int) -> torch.Tensor:
    return PolygonMasks(polygons).crop_and_resize(boxes, side)


def ours(polygons: list, boxes: torch.Tensor, size) -> torch.Tensor:
    return polygon_mask_targets(PackedPolygons.from_lists(polygons), boxes, size)


def random_polygon(rng: np.random.Generator) -> np.ndarray:
    """Tangles, grid points, stars, multiples of a fifth, repeated points, lines, far points."""
    count = int(rng.integers(3, 30))
    kind = rng.integers(7)
    points = rng.uniform(-10, 60, (count, 2))
    if kind == 1:
        points = np.round(points)
    elif kind == 2:
        angle, radius = np.sort(rng.uniform(0, 2 * np.pi, count)), rng.uniform(5, 30, count)
        points = 25 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    elif kind == 3:
        points = np.round(points * 5) / 5
    elif kind == 4:
        points = np.repeat(points, 3, axis=0)
    elif kind == 5:
        points[:, rng.integers(2)] = rng.integers(0, 30)
    elif kind == 6:
        points = points * 8
    return points.reshape(-1)


def random_boxes(rng: np.random.Generator, count: int, dtype: torch.dtype) -> torch.Tensor:
    corner = rng.uniform(-10, 50, (count, 2))
    sides = rng.choice([0.04, 1, 10, 30, 30, 60, 500], (count, 2), p=[0.01, *[0.165] * 6])
    boxes = np.concatenate([corner, corner + sides * rng.uniform(0.5, 1.5, (count, 2))], 1)
    if rng.random() < 0.5:
        boxes = np.round(boxes)
    return torch.tensor(boxes, dtype=dtype)


@pytest.mark.parametrize("seed", range(12))
def test_random_polygons_are_as_in_detectron2(seed):
    rng = np.random.default_rng(seed)
    count = 150
    polygons = [[random_polygon(rng) for _ in range(rng.integers(0, 4))] for _ in range(count)]
    boxes = random_boxes(rng, count, torch.float64 if seed % 4 == 3 else torch.float32)
    side = (1, 3, 7, 14, 28, 33, 56)[seed % 7]
    torch.testing.assert_close(
        ours(polygons, boxes, side), expected(polygons, boxes, side), rtol=0, atol=0
    )


# Fifths of a cell are where rounding decides, so most coordinates are on or near them.
near_fifths = st.builds(
    lambda fifth, half, off: fifth / 5 + half / 10 + off,
    st.integers(-30, 180),
    st.integers(0, 1),
    st.sampled_from([0.0, 0.0, 1e-13, -1e-13, 1e-7, 0.03]),
)
polygon_strategy = st.lists(near_fifths, min_size=6, max_size=24).map(
    lambda values: np.array(values[: len(values) // 2 * 2])
)


@settings(max_examples=400, deadline=None)
@given(
    parts=st.lists(polygon_strategy, min_size=1, max_size=3),
    corner=st.tuples(st.integers(-3, 5), st.integers(-3, 5)),
    sides=st.tuples(st.sampled_from([0, 1, 7, 14, 28, 40]), st.sampled_from([1, 7, 14, 28])),
    side=st.sampled_from([1, 5, 7, 14, 28]),
)
def test_polygons_near_fifths(parts, corner, sides, side):
    box = torch.tensor([[*corner, corner[0] + sides[0], corner[1] + sides[1]]]).float()
    assert torch.equal(ours([parts], box, side), expected([parts], box, side))


def rectangle(x0, y0, x1, y1) -> np.ndarray:
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64)


SHAPES = {
    "two parts that overlap are a union": [rectangle(2, 2, 18, 18), rectangle(10, 10, 26, 26)],
    "a part twice is no hole": [rectangle(2, 2, 18, 18), rectangle(2, 2, 18, 18)],
    # One polygon that runs round an inner square: even-odd leaves a hole.
    "a hole by a slit": [
        np.array([2, 2, 26, 2, 26, 26, 2, 26, 2, 2, 8, 8, 8, 20, 20, 20, 20, 8, 8, 8], float)
    ],
    "a bow tie": [np.array([2, 2, 26, 26, 26, 2, 2, 26], float)],
    "a pentagram": [np.array([14, 1, 22, 26, 1, 10, 27, 10, 6, 26], float)],
    "one pixel": [rectangle(5, 5, 6, 6)],
    "less than a pixel": [rectangle(5.1, 5.1, 5.3, 5.3)],
    "outside": [rectangle(100, 100, 120, 120)],
    "left of the box": [rectangle(-50, 5, -20, 20)],
    "around the box": [rectangle(-50, -50, 90, 90)],
    "a line": [np.array([2, 2, 12, 12, 22, 22], float)],
    "a vertical line": [np.array([12, 2, 12, 12, 12, 22], float)],
    "one point": [np.array([5, 5, 5, 5, 5, 5], float)],
    "below the last row": [rectangle(2, 20, 20, 300)],
    "far points": [np.array([-5e3, 3, 9e3, 14, 7e3, 6e3], float)],
    "steep and far": [np.array([3, -8e3, 14, 9e3, 20, -7e3], float)],
    "none": [],
}


@pytest.mark.parametrize("side", [7, 14, 28])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name, side):
    boxes = torch.tensor(
        [[0, 0, 28, 28], [3.3, 4.7, 19.2, 30.1], [5, 5, 6, 6], [10, 10, 9, 3]], dtype=torch.float32
    )
    polygons = [SHAPES[name]] * len(boxes)
    assert torch.equal(ours(polygons, boxes, side), expected(polygons, boxes, side))


def test_holes_and_unions_are_what_is_meant():
    box = torch.tensor([[0.0, 0, 28, 28]])
    hole = ours([SHAPES["a hole by a slit"]], box, 28)[0]
    assert not hole[14, 14]
    assert hole[4, 14]
    union = ours([SHAPES["two parts that overlap are a union"]], box, 28)[0]
    assert union[14, 14]
    assert union[4, 4]
    assert not union[4, 22]


def test_empty_input():
    assert ours([], torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert not ours([[]], torch.tensor([[0.0, 0, 5, 5]]), 7).any()


def test_instances_may_repeat_and_sizes_may_be_other_than_square():
    rng = np.random.default_rng(0)
    polygons = [[random_polygon(rng)] for _ in range(5)]
    index = torch.tensor([4, 4, 0, 2, 2, 2])
    boxes = random_boxes(rng, 6, torch.float32)
    packed = PackedPolygons.from_lists(polygons)
    got = polygon_mask_targets(packed, boxes, 14, index)
    assert torch.equal(got, expected([polygons[i] for i in index], boxes, 14))
    # Columns do not depend on how many rows there are, nor rows on columns, in where cells lie.
    wide = polygon_mask_targets(packed, boxes, (14, 28), index)
    tall = polygon_mask_targets(packed, boxes, (28, 14), index)
    assert wide.shape == (6, 14, 28)
    assert tall.shape == (6, 28, 14)
    plain = torch.empty_like(wide)
    fallback.polygon_mask_targets(
        packed.points, packed.part_begin, packed.instance_begin, index, boxes, False, plain
    )
    assert torch.equal(wide, plain)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", range(4))
def test_boxes_that_are_not_finite_give_zeros(value, place):
    box = torch.tensor([[0.0, 0, 28, 28]])
    box[0, place] = value
    assert not ours([[rectangle(2, 2, 18, 18)]], box, 14).any()
    assert not bitmask_targets(torch.ones(1, 30, 30, dtype=torch.bool), box, 14).any()


def test_half_precision_boxes_are_taken_as_float32():
    box = torch.tensor([[0.5, 0, 28, 28]])
    polygons = [[rectangle(2, 2, 18, 18)]]
    assert torch.equal(ours(polygons, box.bfloat16(), 14), ours(polygons, box, 14))


@needs_kernels
def test_far_points_cost_nothing():
    # pycocotools would walk 10^12 steps.
    polygons = [[np.array([-1e11, -1e11, 1e11, -1e11, 1e11, 1e11, -1e11, 1e11])]] * 100
    polygons += [[np.array([-1e300, 0.0, 1e300, 0.0, 0.0, 1e300])]] * 100
    start = time.monotonic()
    masks = ours(polygons, torch.tensor([[0.0, 0, 0.01, 28]]).repeat(200, 1), 28)
    assert time.monotonic() - start < 2
    assert masks[:100].all()


@needs_kernels
def test_the_number_of_threads_changes_nothing():
    rng = np.random.default_rng(1)
    polygons = [[random_polygon(rng)] for _ in range(100)]
    boxes = random_boxes(rng, 100, torch.float32)
    masks = torch.rand(100, 40, 50) < 0.5
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append((ours(polygons, boxes, 28), bitmask_targets(masks, boxes, 28)))
    for polygon_result, mask_result in results[1:]:
        assert torch.equal(polygon_result, results[0][0])
        assert torch.equal(mask_result, results[0][1])


def random_masks(rng: np.random.Generator, count: int) -> torch.Tensor:
    height, width = rng.integers(1, 90, 2)
    if rng.random() < 0.3:
        return torch.tensor(rng.random((count, height, width)) < 0.5)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:  # rectangles give ties with boxes on whole and half pixels
        y, x = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
        mask[y[0] : y[1], x[0] : x[1]] = True
    return masks


@pytest.mark.parametrize("seed", range(60))
def test_random_bitmasks_are_as_in_detectron2(seed):
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, 30)
    boxes = random_boxes(rng, 30, torch.float32)
    if seed % 3 == 0:
        boxes = (boxes * 2).round() / 2
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2])
    side = (1, 7, 14, 28)[seed % 4]
    reference = BitMasks(masks).crop_and_resize(boxes, side)
    assert torch.equal(bitmask_targets(masks, boxes, side), reference)
    index = torch.tensor(rng.integers(0, 30, 10))
    result = bitmask_targets(masks, boxes[index], side, index)
    assert torch.equal(result, reference[index])


def test_a_huge_box_of_a_bitmask():
    masks = torch.ones(2, 20, 30, dtype=torch.bool)
    boxes = torch.tensor([[-3e4, -3e4, 3e4, 3e4], [0, 0, 1e9, 1e9]])
    if kernel_status()[0].loaded:
        assert bitmask_targets(masks, boxes, 28).shape == (2, 28, 28)
    assert bitmask_targets(torch.zeros(1, 0, 5).bool(), boxes[:1], 28).sum() == 0


@pytest.mark.slow
def test_without_kernels_the_same(tmp_path):
    rng = np.random.default_rng(2)
    polygons = [[random_polygon(rng) for _ in range(rng.integers(0, 3))] for _ in range(40)]
    boxes, masks = random_boxes(rng, 40, torch.float32), random_masks(rng, 40)
    torch.save((polygons, boxes, masks), tmp_path / "in.pt")
    code = (
        "import sys, torch\n"
        "from mrcnn_ext.layers import *\n"
        "assert not kernel_status()[0].loaded\n"
        "polygons, boxes, masks = torch.load(sys.argv[1], weights_only=False)\n"
        "packed = PackedPolygons.from_lists(polygons)\n"
        "torch.save((polygon_mask_targets(packed, boxes, 14), bitmask_targets(masks, boxes, 14)),"
        " sys.argv[2])\n"
    )
    result = run_python(
        ["-W", "ignore", "-c", code, tmp_path / "in.pt", tmp_path / "out.pt"],
        env={"MRCNN_EXT_KERNELS": "0"},
        cwd=REPO,
    )
    assert result.returncode == 0, result.stderr
    from_polygons, from_masks = torch.load(tmp_path / "out.pt")
    assert torch.equal(from_polygons, ours(polygons, boxes, 14))
    assert torch.equal(from_masks, bitmask_targets(masks, boxes, 14))


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([[], [np.array([1.0, 2, 3, 4])]], "Polygon 0 of instance 1 has 4 coordinates"),
        ([[np.arange(6.0), np.arange(7.0)]], "Polygon 1 of instance 0 has 7 coordinates"),
        ([[np.array([1, 2, 3, 4, 5, NAN])]], "Polygon 0 of instance 0 has the coordinate nan"),
        ([[np.array([1, 2, 3, 4, 5, -INF])]], "the coordinate -inf"),
    ],
)
def test_bad_polygons(polygons, message):
    with pytest.raises(ValueError, match=message):
        PackedPolygons.from_lists(polygons)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be one or two positive numbers, not 0"),
        ({"size": (7, 7, 7)}, "size must be"),
        ({"size": (7, 7.5)}, "size must be a whole number, not 7.5"),
        ({"boxes": torch.zeros(1, 5)}, r"boxes must be \(R, 4\).*\(1, 5\)"),
        ({"boxes": torch.zeros(1, 4).long()}, "boxes must be"),
        ({"boxes": torch.zeros(2, 4)}, "2 boxes for 1 instances"),
        ({"instances": torch.zeros(1)}, r"instances must be \(1,\) int64"),
        ({"instances": torch.zeros(2).long()}, r"instances must be \(1,\) int64"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {"boxes": torch.zeros(1, 4), "size": 7, **arguments}
    with pytest.raises(ValueError, match=message):
        polygon_mask_targets(PackedPolygons.from_lists([[np.arange(6.0)]]), **arguments)
    with pytest.raises(ValueError, match=message):
        bitmask_targets(torch.zeros(1, 5, 5, dtype=torch.bool), **arguments)


def test_masks_must_be_bool():
    with pytest.raises(ValueError, match="masks must be"):
        bitmask_targets(torch.zeros(1, 5, 5), torch.zeros(1, 4), 7)


@needs_kernels
@pytest.mark.parametrize("number", [-1, 1])
def test_an_instance_out_of_range_is_an_error(number):
    boxes, index = torch.zeros(1, 4), torch.tensor([number])
    with pytest.raises(RuntimeError, match=f"box 0 has instance {number} of 1"):
        polygon_mask_targets(PackedPolygons.from_lists([[np.arange(6.0)]]), boxes, 7, index)
    with pytest.raises(RuntimeError, match=f"box 0 has instance {number} of 1"):
        bitmask_targets(torch.zeros(1, 5, 5, dtype=torch.bool), boxes, 7, index)


@needs_kernels
def test_offsets_that_would_read_out_of_bounds_are_an_error():
    points, begin = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([0, 4])
    with pytest.raises(RuntimeError, match="part_begin must end with 3"):
        polygon_mask_targets(
            PackedPolygons(points, begin, torch.tensor([0, 1])), torch.zeros(1, 4), 7
        )
