# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The highest pixel of resized maps, with and without the compiled op, against resizing them."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.structures import heatmaps_to_keypoints
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mrcnn_ext.layers import bicubic_peaks
from mrcnn_ext.layers.heatmap_peaks import ops
from mrcnn_ext.layers.kernels import has_kernels
from mrcnn_ext.modeling.keypoint_codecs import fast_heatmaps_to_keypoints

BOX = torch.tensor([[50.0, 50, 250, 450]])
KINDS = ["peaky", "noisy", "random", "bilinear", "steps", "slope"]

compiled = pytest.mark.skipif(not has_kernels("_C_cpu"), reason="no compiled kernels here")


@pytest.fixture(params=[pytest.param("compiled", marks=compiled), "torch"])
def kernel(request, monkeypatch):
    """Each of the two, whichever is in use."""
    if request.param == "torch":
        monkeypatch.setattr(ops.BICUBIC_PEAKS, "compiled", {})


def _peaky(regions, number, size, noise, generator):
    """Maps as a trained head makes them: a mode, sometimes a second one, and noise."""
    cells = torch.arange(size)
    maps = noise * torch.randn(regions, number, size, size, generator=generator) - 3
    for height in (10.0, 9.5):
        centre = torch.rand(regions, number, 2, generator=generator) * size - 0.5
        distance = (cells - centre[..., :1])[:, :, None].square()
        distance = distance + (cells - centre[..., 1:])[..., None].square()
        maps = maps + height * torch.exp(-distance / 8)
    return maps


def _maps(kind, shape, generator):
    """Maps of one kind: with modes, with many equal cells, highest at the border, and others."""
    regions, number, height, width = shape
    if kind in ("peaky", "noisy"):
        noise = 0.1 if kind == "peaky" else 2.0
        return _peaky(regions, number, max(height, width), noise, generator)[..., :height, :width]
    if kind == "bilinear":
        half = ((height + 1) // 2, (width + 1) // 2)
        maps = torch.randn(regions, number, *half, generator=generator)
        return F.interpolate(maps, size=(height, width), mode="bilinear")
    if kind == "slope":
        slopes = torch.randn(2, regions, number, 1, 1, generator=generator)
        return slopes[0] * torch.arange(width) + slopes[1] * torch.arange(height)[:, None]
    maps = torch.randn(shape, generator=generator)
    return maps.round() * 5 if kind == "steps" else maps


def _check_against_resizing(maps, widths, heights):
    """The value is the resized map's maximum, and that of the pixel, up to float32's rounding."""
    x, y, value = bicubic_peaks(maps, widths, heights)
    assert x.shape == y.shape == value.shape == maps.shape[:2]
    for r, (width, height) in enumerate(zip(widths.tolist(), heights.tolist())):
        resized = F.interpolate(maps[r : r + 1].double(), (height, width), mode="bicubic")[0]
        tolerance = 1e-5 * max(float(maps[r].abs().max()), 1.0)
        highest = resized.flatten(1).amax(dim=1)
        torch.testing.assert_close(value[r].double(), highest, atol=tolerance, rtol=0)
        keypoints = torch.arange(maps.shape[1])
        found = resized[keypoints, y[r], x[r]]  # an error if it is no pixel of this map
        torch.testing.assert_close(found, highest, atol=tolerance, rtol=0)


SIDES = st.sampled_from([1, 2, 3, 5, 8, 17, 30, 56, 57])


# The fixture is for all examples: it chooses what runs.
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS),
    height=SIDES,
    width=SIDES,
    sides=st.sampled_from([(1, 8), (1, 70), (60, 300), (1, 400)]),
)
def test_highest_pixel_of_any_map_at_any_size(kernel, seed, kind, height, width, sides):
    generator = torch.Generator().manual_seed(seed)
    maps = _maps(kind, (3, 2, height, width), generator)
    size = torch.randint(sides[0], sides[1] + 1, (2, 3), generator=generator)
    _check_against_resizing(maps, *size)


def test_a_second_mode_is_found_where_its_cell_is_lower(kernel):
    """Two equal cells side by side overshoot between them, above a higher cell that stands alone."""
    maps = torch.zeros(1, 1, 20, 20)
    maps[0, 0, 5, 5] = 1.0
    maps[0, 0, 14:16, 14:16] = 0.95
    x, y, value = bicubic_peaks(maps, torch.tensor([200]), torch.tensor([200]))
    assert (int(x), int(y)) in {(i, j) for i in (149, 150) for j in (149, 150)}
    assert float(value) > 1.1
    _check_against_resizing(maps, torch.tensor([200]), torch.tensor([200]))


def test_of_equal_pixels_the_first(kernel):
    maps = torch.zeros(2, 1, 8, 8)
    maps[1, 0, 2, 3] = maps[1, 0, 2, 6] = maps[1, 0, 5, 1] = 1
    # An odd number of pixels for each cell: one is in the middle of the cell.
    x, y, value = bicubic_peaks(maps, torch.tensor([40, 40]), torch.tensor([24, 24]))
    assert (x.flatten().tolist(), y.flatten().tolist()) == ([0, 17], [0, 7])
    assert value.flatten().tolist() == [0, 1]


@compiled
def test_threads_and_strides_change_nothing():
    generator = torch.Generator().manual_seed(0)
    maps = _maps("noisy", (40, 3, 28, 30), generator)
    sizes = torch.randint(1, 200, (2, 40), generator=generator)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = bicubic_peaks(maps, *sizes)
        torch.set_num_threads(3)
        three = bicubic_peaks(maps, *sizes)
    finally:
        torch.set_num_threads(threads)
    last = maps.to(memory_format=torch.channels_last)
    for a, b, c in zip(one, three, bicubic_peaks(last, *sizes)):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_a_nan_is_not_hidden(kernel):
    maps = _maps("peaky", (2, 2, 14, 14), torch.Generator().manual_seed(0))
    maps[0, 1, 3, 4] = math.nan
    for side in (10, 100):
        _, _, value = bicubic_peaks(maps, torch.full((2,), side), torch.full((2,), side))
        assert value.isnan().tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    ("maps", "widths", "message"),
    [
        (torch.zeros(1, 8, 8), torch.ones(1, dtype=torch.int64), r"maps must be \(R, K, H, W\)"),
        (torch.zeros(1, 1, 8, 8).double(), torch.ones(1, dtype=torch.int64), "not torch.float64"),
        (torch.zeros(1, 1, 8, 8), torch.ones(2, dtype=torch.int64), r"widths must be \(1,\) int64"),
        (torch.zeros(1, 1, 8, 8), torch.ones(1), "widths must be .* not torch.float32"),
    ],
)
def test_bad_arguments(maps, widths, message):
    with pytest.raises(ValueError, match=message):
        bicubic_peaks(maps, widths, torch.ones(1, dtype=torch.int64))


@compiled
def test_no_size_below_one():
    with pytest.raises(RuntimeError, match="sizes must be from 1"):
        bicubic_peaks(torch.zeros(1, 1, 8, 8), torch.tensor([0]), torch.tensor([5]))


# ---- Detectron2's decode ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS[:-1]),
    size=st.sampled_from([56, 28, 14, 7, 5]),
    sides=st.sampled_from([(1, 20), (20, 60), (60, 200), (5, 300)]),
)
def test_fast_decoding_finds_detectron2s_pixel(seed, kind, size, sides):
    generator = torch.Generator().manual_seed(seed)
    maps = _maps(kind, (3, 2, size, size), generator)
    low, high = sides
    extent = low + (high - low) * torch.rand(3, 2, generator=generator)
    corner = torch.rand(3, 2, generator=generator) * 50 - 10
    boxes = torch.cat([corner, corner + extent], dim=1)
    expected = heatmaps_to_keypoints(maps, boxes)
    actual = fast_heatmaps_to_keypoints(maps, boxes)
    torch.testing.assert_close(actual[..., 2], expected[..., 2], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(actual[..., 3], expected[..., 3], atol=1e-5, rtol=1e-4)
    differ = (actual - expected)[..., :2].abs().amax(dim=2) > 1e-3
    for r, k in differ.nonzero().tolist():
        # Allowed for equal pixels only: the resized map there is the maximum up to rounding.
        size_of = (extent.clamp(min=1)[r].ceil()).long().tolist()
        resized = F.interpolate(maps[r : r + 1, k : k + 1].double(), size_of[::-1], mode="bicubic")
        top = resized.flatten().topk(2).values
        assert top[0] - top[1] < 1e-5


def test_fast_decoding_of_no_regions_and_flat_maps(kernel):
    assert fast_heatmaps_to_keypoints(torch.zeros(0, 3, 8, 8), torch.zeros(0, 4)).shape == (0, 3, 4)
    flat = fast_heatmaps_to_keypoints(torch.zeros(1, 1, 56, 56), BOX)
    assert float(flat[0, 0, 3]) == pytest.approx(1 / 3136)
