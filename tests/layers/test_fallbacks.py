# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Input on which the libraries behind the fallbacks fail: huge, far away, out of range.

Every test runs with and without the compiled ops, against a reference of its own.
"""

from __future__ import annotations

import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torchvision
from detectron2.structures import BitMasks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from torch.nn import functional as F

from mrcnn_ext.layers import (
    PackedPolygons,
    bicubic_peaks,
    bitmask_targets,
    kernel_status,
    polygon_mask_targets,
    roi_align_pyramid,
)
from mrcnn_ext.layers.kernels import without_kernels
from mrcnn_ext.layers.mask_targets import fallback, far_polygons
from tests.layers import roi_align_reference

needs_kernels = pytest.mark.skipif(not kernel_status()[0].loaded, reason="needs compiled kernels")
BOTH = [pytest.param("compiled", marks=needs_kernels), "fallback"]
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=BOTH, autouse=True)
def kernels(request):
    with nullcontext() if request.param == "compiled" else without_kernels():
        yield


# -- RoIAlign --------------------------------------------------------------------------------------


def axis_reference(low, high, scale, aligned, bins, ratio, length) -> np.ndarray:
    """(bins, length) float64 weights of one axis: every sample of every cell, as the paper says."""
    start, end = low * scale - 0.5 * aligned, high * scale - 0.5 * aligned
    size = end - start if aligned else max(end - start, 1)
    grid = ratio or max(int(np.ceil(size / bins)), 0)
    weights = np.zeros((bins, length))
    for cell in range(bins):
        position = start + (cell + (np.arange(grid) + 0.5) / max(grid, 1)) * size / bins
        position = np.clip(position[(position >= -1) & (position <= length)], 0, length - 1)
        first = position.astype(int)
        np.add.at(weights[cell], first, (1 - position + first) / grid)
        np.add.at(weights[cell], np.minimum(first + 1, length - 1), (position - first) / grid)
    return weights


def pooled_reference(feature, box, scale, size, ratio, aligned) -> np.ndarray:
    x0, y0, x1, y1 = (float(v) for v in box)
    rows = axis_reference(y0, y1, scale, aligned, size[0], ratio, feature.shape[1])
    columns = axis_reference(x0, x1, scale, aligned, size[1], ratio, feature.shape[2])
    return rows @ feature.double().numpy() @ columns.T


def test_the_axes_of_this_file_are_roi_aligns():
    feature = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0))
    for ratio in (0, 3):
        for aligned in (False, True):
            arguments = ([-5.0, 3, 30, 50], 0.25, (3, 4), ratio, aligned)
            expected = roi_align_reference.roi_align(feature, *arguments)
            np.testing.assert_allclose(pooled_reference(feature, *arguments), expected, atol=1e-12)


FAR_BOXES = {
    "beyond 32768 pixels of the image": [35000, 35000, 36000, 36000],
    "across 32768": [30000.5, 32700.25, 33000, 36111],
    "around the map": [-50000, -40000, 90000, 81000],
    "from the map to far away": [35900, 10, 2e6, 36000],
    "a corner of the map": [-3e5, -3e5, 90, 50],
    "beside the map": [5e4, 5e4, 6e5, 6e5],
    "a million pixels": [-1e6, -1e6, 1e6, 1e6],
}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2, 100])
@pytest.mark.parametrize("name", FAR_BOXES)
def test_far_and_huge_boxes(name, ratio, aligned):
    """A map of 36,800 pixels of the image, in float64, so that rounding moves no sample."""
    feature = torch.rand(1, 2, 575, 575, generator=torch.Generator().manual_seed(1)).double()
    feature.requires_grad_()
    rois = torch.tensor([[0, *FAR_BOXES[name]], [0, 100, 200, 300.5, 400]], dtype=torch.float64)
    output = roi_align_pyramid([feature], rois, [1 / 64], (2, 3), ratio, aligned)
    weight = torch.rand(output.shape, generator=torch.Generator().manual_seed(2)).double()
    (grad,) = torch.autograd.grad((output * weight).sum(), feature)
    total = np.zeros(feature.shape[1:])
    for row in range(2):
        box = rois[row, 1:].tolist()
        expected = pooled_reference(feature[0].detach(), box, 1 / 64, (2, 3), ratio, aligned)
        np.testing.assert_allclose(output[row].detach(), expected, atol=1e-9)
        rows = axis_reference(box[1], box[3], 1 / 64, aligned, 2, ratio, 575)
        columns = axis_reference(box[0], box[2], 1 / 64, aligned, 3, ratio, 575)
        total += rows.T @ weight[row].numpy() @ columns
    np.testing.assert_allclose(grad[0], total, atol=1e-9)
    if name == "beyond 32768 pixels of the image":
        box = rois.float().detach()
        expected = torchvision.ops.roi_align(
            feature.detach().float(), box, (2, 3), 1 / 64, min(ratio, 4), aligned
        )
        if ratio < 100:
            torch.testing.assert_close(output.detach().float(), expected, atol=1e-3, rtol=0)
        assert output[0].abs().min() > 0.1


def test_far_boxes_in_a_pyramid_of_half_precision():
    generator = torch.Generator().manual_seed(3)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        maps = [torch.rand(2, 3, 300 >> i, 400 >> i, generator=generator).to(dtype) for i in (0, 1)]
        rois = torch.tensor(
            [[0, -2e5, -2e5, 2e5, 2e5], [1, 1200, 900, 7e4, 8e4], [1, 5, 5, 90, 90]]
        )
        output = roi_align_pyramid(maps, rois, [1 / 4, 1 / 8], 7)
        for row, level in ((0, 1), (1, 1), (2, 0)):
            image = maps[level][int(rois[row, 0])]
            expected = pooled_reference(image, rois[row, 1:], 0.25 / 2**level, (7, 7), 0, True)
            np.testing.assert_allclose(output[row].double(), expected, atol=5e-3)


def test_values_that_no_sample_reads_do_not_count():
    feature = torch.ones(1, 1, 20, 20)
    feature[0, 0, 10, 10] = torch.nan
    feature[0, 0, 1, 1] = torch.inf
    # Two samples a cell: of rows and columns 10, one cell reads only the NaN's neighbours.
    rois = torch.tensor([[0, -1e5, -1e5, 2.0, 2.0]])
    output = roi_align_pyramid([feature], rois, [1.0], 2)[0, 0]
    assert output[1, 1] == torch.inf
    assert (output[0] == 0).all()
    far = roi_align_pyramid([feature], torch.tensor([[0, 4e4, 0, 5e4, 9]]), [1.0], 2)
    assert (far == 0).all()


def test_coordinates_beyond_float32_are_as_beyond_the_map():
    feature = torch.ones(1, 1, 8, 8)
    rois = torch.tensor([[0, -1e300, -1e300, 1e300, 1e300], [0, 1e39, 0, 1e300, 8]]).double()
    rois = torch.cat([rois, torch.tensor([[0, -3e38, 0, 3e38, 8.0]]).double()])
    output = roi_align_pyramid([feature], rois, [1.0], 3)
    assert torch.isfinite(output).all()
    assert (output[1] == 0).all()
    # Of a cell in the middle, 2**24 / 3 pixels wide, ten reach the map: -1 to 8.
    middle = 9 / (2**24 / 3)
    torch.testing.assert_close(output[2, 0, :, 1], torch.full((3,), middle), rtol=0.2, atol=0)


@pytest.mark.parametrize("ratio", [65537, 2**31 - 1, 2**31, 2**32, 2**62, 2**63])
def test_too_many_samples_are_an_error(ratio):
    with pytest.raises(ValueError, match=f"sampling_ratio must be 0 .* not {ratio}"):
        roi_align_pyramid([torch.zeros(1, 1, 8, 8)], torch.zeros(1, 5), [1.0], 2, ratio)


def test_as_many_samples_as_are_allowed():
    feature = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0)).double()
    box = [1.0, 2, 7, 8.5]
    output = roi_align_pyramid([feature], torch.tensor([[0, *box]]).double(), [1.0], 2, 65536)
    expected = pooled_reference(feature[0], box, 1.0, (2, 2), 65536, True)
    np.testing.assert_allclose(output[0], expected, rtol=1e-9)


# -- Polygons --------------------------------------------------------------------------------------


def drawn(parts, box, side) -> np.ndarray:
    packed = PackedPolygons.from_lists([[np.array(part, dtype=float) for part in parts]])
    return polygon_mask_targets(packed, torch.tensor([box]).float(), side)[0].numpy()


@pytest.mark.parametrize("far", [1e5, 1e6, 1e8, 1e9, 1e10, 1e12, 1e18, 1e300])
def test_polygons_that_reach_far(far):
    """What is drawn in the box does not depend on how far away the rest is."""
    near = 200.0
    box, side = [0, 0, 20, 20], 28
    for polygon in (
        lambda c: [0, 0, c, 0, c, 10, 0, 10],
        lambda c: [-c, -c, c, -c, c, c, -c, c],
        lambda c: [5, -c, 12, -c, 12, c, 5, c],
        lambda c: [-c, 6.1, c, 6.1, c, 13.3, -c, 13.3],
        lambda c: [3, 3, 17, 3, 17, 17, c, c, 17, 18, 3, 17],
    ):
        start = time.monotonic()
        actual = drawn([polygon(far)], box, side)
        assert time.monotonic() - start < 2
        cells = np.array(polygon(near)) * 28 / 20
        if polygon(1)[:2] == [3, 3]:  # its far corner moves an edge between cells
            inner = slice(5, 23)
            assert actual[inner, inner].all()
            assert not actual[:4].any()
            continue
        expected = mask_util.decode(mask_util.frPyObjects([cells], side, side))[..., 0]
        np.testing.assert_array_equal(actual, expected)


def test_far_parts_join_near_ones():
    near, far = [2, 2, 8, 2, 8, 8, 2, 8], [14, -1e9, 18, -1e9, 18, 1e9, 14, 1e9]
    box, side = [0, 0, 20, 20], 20
    together = drawn([near, far], box, side)
    np.testing.assert_array_equal(together, drawn([near], box, side) | drawn([far], box, side))
    assert together.sum() == 36 + 80


polygon_strategy = st.lists(
    st.tuples(st.floats(-60, 90), st.floats(-60, 90)), min_size=3, max_size=12
).map(lambda points: np.array(points))


@SETTINGS
@given(polygon_strategy, st.integers(0, 4), st.sampled_from([(1, 1), (7, 9), (28, 28), (14, 3)]))
def test_the_fallback_for_far_polygons_is_pycocotools(polygon, digits, size):
    polygon = polygon.round(digits)
    run_lengths = mask_util.frPyObjects([polygon.reshape(-1)], *size)
    expected = mask_util.decode(run_lengths)[..., 0]
    np.testing.assert_array_equal(far_polygons.draw(polygon, *size), expected)


@needs_kernels
@SETTINGS
@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([3e3, 1e5, 3e6, 1e9, 1e12, 1e20, 1e300]),
    side=st.sampled_from([1, 7, 28]),
    double=st.booleans(),
)
def test_far_polygons_are_the_compiled_ops(seed, spread, side, double):
    rng = np.random.default_rng(seed)
    polygons = [
        [rng.uniform(-1, 1, 2 * rng.integers(3, 9)) * rng.choice([30, spread]) for _ in range(2)]
        for _ in range(3)
    ]
    boxes = torch.tensor(rng.uniform(-40, 40, (3, 4)))
    boxes = boxes if double else boxes.float()
    packed = PackedPolygons.from_lists(polygons)
    compiled = polygon_mask_targets(packed, boxes, side)
    with without_kernels():
        assert torch.equal(polygon_mask_targets(packed, boxes, side), compiled)


def test_an_outline_that_pycocotools_would_walk_for_minutes():
    """A zigzag of 4,000 edges of 200,000 cells each."""
    points = np.tile([[-1e5, 3.0], [1e5, 3.2]], (2_000, 1))
    start = time.monotonic()
    drawn([points.reshape(-1)], [0, 0, 28, 28], 28)
    assert time.monotonic() - start < 20


# -- Full masks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [-1, 2, 5, 10**6, 2**62, -(2**63)])
def test_an_instance_out_of_range_is_an_error(number):
    masks, boxes = torch.zeros(2, 33, 33, dtype=torch.bool), torch.tensor([[1.0, 1, 20, 20]] * 2)
    index = torch.tensor([1, number])
    message = f"box 1 has instance {number} of 2: expected 0 to 1"
    with pytest.raises(RuntimeError, match=message):
        bitmask_targets(masks, boxes, 28, index)
    packed = PackedPolygons.from_lists([[np.arange(6.0)]] * 2)
    with pytest.raises(RuntimeError, match=message):
        polygon_mask_targets(packed, boxes, 28, index)


def test_of_no_instances_none_can_be_taken():
    boxes, index = torch.tensor([[1.0, 1, 20, 20]]), torch.tensor([0])
    with pytest.raises(RuntimeError, match="box 0 has instance 0 of 0"):
        bitmask_targets(torch.zeros(0, 9, 9, dtype=torch.bool), boxes, 28, index)
    with pytest.raises(RuntimeError, match="box 0 has instance 0 of 0"):
        polygon_mask_targets(PackedPolygons.from_lists([]), boxes, 28, index)
    assert bitmask_targets(torch.zeros(0, 9, 9, dtype=torch.bool), boxes[:0], 28).shape[0] == 0


def test_where_nothing_can_wait_for_a_device_an_instance_out_of_range_gives_zeros():
    """As on a GPU, where the op runs without the check."""
    masks, boxes = torch.ones(2, 33, 33, dtype=torch.bool), torch.tensor([[1.0, 1, 20, 20]] * 4)
    output = torch.empty(4, 7, 7, dtype=torch.bool)
    fallback.bitmask_targets(masks, torch.tensor([1, -1, 2, 2**62]), boxes, output)
    assert output.flatten(1).all(dim=1).tolist() == [True, False, False, False]
    assert not output[1:].any()
    fallback.bitmask_targets(masks[:0], torch.tensor([0, 0, 0, 0]), boxes, output)
    assert not output.any()


@pytest.mark.parametrize(
    "box",
    [
        [-3e4, -3e4, 3e4, 3e4],
        [-70000, -100, 80000, 300],
        [0, 0, 1e9, 1e9],
        [-1e7, -1e7, 1e7, 1e7],
        [3e38, 0, 3.1e38, 9],
        [-3e38, -3e38, 3e38, 3e38],
    ],
)
def test_huge_boxes_of_a_mask(box):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(1, 130, 170, generator=generator) < 0.7
    actual = bitmask_targets(masks, torch.tensor([box]).float(), (5, 7))[0].numpy()
    limit = 2.0**23
    x0, y0, x1, y1 = np.clip(np.array(box) - 0.5, -limit, limit) + 0.5
    value = pooled_reference(masks.float(), [x0, y0, x1, y1], 1.0, (5, 7), 0, True)[0]
    certain = np.abs(value - 0.5) > 1e-2
    np.testing.assert_array_equal(actual[certain], (value >= 0.5)[certain])


def test_a_mask_of_very_many_pixels():
    """More samples than torchvision can store."""
    mask = torch.zeros(1, 4300, 4400, dtype=torch.bool)
    mask[:, 600:3100, 1000:3000] = True
    mask[:, ::3] = False
    box = [10.5, 20.0, 4350.0, 4290.5]
    actual = bitmask_targets(mask, torch.tensor([box]), (9, 7))[0].numpy()
    value = pooled_reference(mask[0, None].float(), box, 1.0, (9, 7), 0, True)[0]
    assert (np.abs(value - 0.5) > 1e-2).all()
    np.testing.assert_array_equal(actual, value >= 0.5)
    assert 10 < actual.sum() < 30


@SETTINGS
@given(seed=st.integers(0, 2**31), side=st.sampled_from([1, 3, 14]))
def test_the_fallback_for_huge_boxes_is_detectron2s_crop(seed, side):
    """Bit for bit, ties included, on boxes that torchvision can take."""
    rng = np.random.default_rng(seed)
    masks = torch.tensor(rng.random((2, *rng.integers(1, 40, 2))) < 0.5)
    corner = rng.uniform(-20, 40, (2, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + rng.uniform(0.1, 300, (2, 2))], 1))
    boxes = ((boxes * 2).round() / 2 if seed % 2 else boxes).float()
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)
    expected = BitMasks(masks).crop_and_resize(boxes, side)
    for row in range(2):
        crop = fallback._crop(masks[row].numpy(), boxes[row].numpy(), side, side)
        np.testing.assert_array_equal(crop, expected[row])
    assert torch.equal(bitmask_targets(masks, boxes, side), expected)


# -- Packed polygons that are not what they should be ----------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"points": torch.zeros(4, 2)}, ValueError, r"points of the polygons must be \(P, 2\)"),
        ({"points": torch.zeros(8).double()}, ValueError, r"must be \(P, 2\) torch.float64"),
        ({"points": torch.zeros(2, 4).double().T}, ValueError, "contiguous and on the CPU"),
        ({"part_begin": torch.tensor([0, 4]).int()}, ValueError, "part_begin of the polygons must"),
        ({"part_begin": torch.tensor([0, 5])}, RuntimeError, "part_begin must end with 4"),
        ({"part_begin": torch.tensor([1, 4])}, RuntimeError, "part_begin must begin with 0"),
        ({"instance_begin": torch.tensor([0, 2])}, RuntimeError, "instance_begin must end with 1"),
        ({"instance_begin": torch.tensor([0, 2, 1])}, RuntimeError, "instance_begin must not fall"),
        ({"instance_begin": torch.tensor([[0, 1]])}, ValueError, "instance_begin of the polygons"),
    ],
)
def test_packed_polygons_are_checked(change, error, words):
    packed = PackedPolygons.from_lists([[np.array([1, 1, 5, 1, 5, 5, 1, 5.0])]])
    fields = {name: getattr(packed, name) for name in ("points", "part_begin", "instance_begin")}
    wrong = PackedPolygons(**{**fields, **change})
    boxes = torch.zeros(len(wrong), 4)
    with pytest.raises(error, match=words):
        polygon_mask_targets(wrong, boxes, 7)


# -- Peaks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (0, 7),
        (7, -3),
        (2**24, 7),
        (7, 2**62),
        (2**24 - 1, 2**24 - 1),
        (2**16, 2**15),
        (-(2**63), 1),
    ],
)
def test_sizes_out_of_range_are_an_error(width, height):
    message = f"sizes must be from 1 .* but region 1 has {width} x {height}"
    with pytest.raises(RuntimeError, match=message):
        bicubic_peaks(torch.rand(2, 1, 5, 5), torch.tensor([9, width]), torch.tensor([9, height]))


@pytest.mark.parametrize(
    ("shape", "width", "height"),
    [((5, 5), 3700, 4100), ((1, 1), 2500, 30), ((3, 60), 6000, 40), ((20, 7), 9, 7001)],
)
def test_peaks_of_huge_boxes(shape, width, height):
    maps = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(4))
    x, y, value = bicubic_peaks(maps, torch.tensor([width]), torch.tensor([height]))
    resized = F.interpolate(maps.double(), (height, width), mode="bicubic")[0]
    highest = resized.flatten(1).amax(dim=1)
    torch.testing.assert_close(value[0].double(), highest, atol=1e-5, rtol=0)
    found = resized[torch.arange(2), y[0], x[0]]
    torch.testing.assert_close(found, highest, atol=1e-5, rtol=0)


def test_of_equal_pixels_of_a_huge_box_the_first():
    x, y, value = bicubic_peaks(torch.zeros(1, 1, 2, 1), torch.tensor([5000]), torch.tensor([4500]))
    assert (x.item(), y.item(), value.item()) == (0, 0, 0)


def test_a_side_of_a_million_pixels():
    maps = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(5))
    x, y, value = bicubic_peaks(maps, torch.tensor([2**20]), torch.tensor([7]))
    # The seven rows have the weights of F.interpolate; of each, a wide resize is nearly as high.
    resized = F.interpolate(maps.double(), (7, 2**16 - 1), mode="bicubic")[0, 0]
    assert value.item() == pytest.approx(float(resized.max()), abs=1e-4)
    assert y.item() == int(resized.max(dim=1).values.argmax())
    assert abs(x.item() / 2**20 - int(resized.max(dim=0).values.argmax()) / 2**16) < 0.01
