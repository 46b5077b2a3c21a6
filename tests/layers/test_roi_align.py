# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""roi_align_pyramid on the CPU against its definition, torchvision and Detectron2.

The tests hold with and without compiled kernels: the last one runs this file again without.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.layers import kernel_status, roi_align_pyramid
from mrcnn_ext.layers.roi_align.fallback import assign_levels
from mrcnn_ext.layers.roi_align.ops import is_channels_last
from tests.helpers import REPO, run_python
from tests.layers import roi_align_reference

COMPILED = kernel_status()[0].loaded
OPS = torch.ops.mrcnn_ext
# Rounding of the result's own type, besides that of float32 arithmetic.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 2e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
SCALES = [1 / 4, 1 / 8, 1 / 16]


def pyramid(
    num_levels=3, n=2, c=5, size=(20, 28), dtype=torch.float32, channels_last=False, seed=0
):
    generator = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [
        torch.randn(n, c, max(size[0] >> i, 1), max(size[1] >> i, 1), generator=generator)
        .to(dtype)
        .to(memory_format=layout)
        for i in range(num_levels)
    ]


def boxes(count=12, n=2, size=(80, 112), seed=0, inverted=False):
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([size[1], size[0]]) * 1.3
    points = torch.rand(count, 2, 2, generator=generator) * limit - 8
    if not inverted:
        points = torch.stack([points.amin(1), points.amax(1)], 1)
    index = torch.randint(n, (count, 1), generator=generator)
    return torch.cat([index.float(), points.flatten(1)], 1)


def assert_close(actual, expected, dtype):
    expected = torch.as_tensor(expected)
    error = (actual.double() - expected.double()).abs() / (1 + expected.double().abs())
    assert error.numel() == 0 or error.max() < TOLERANCE[dtype], f"error {error.max():.2e}"


coordinate = st.floats(-30, 150, width=32)
roi_strategy = st.tuples(st.integers(0, 1), coordinate, coordinate, coordinate, coordinate)


@settings(max_examples=150, deadline=None)
@given(
    rois=st.lists(roi_strategy, max_size=6),
    num_levels=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 16, 64, 65]),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    output_size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    sampling_ratio=st.integers(0, 3),
    aligned=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    channels_last=st.booleans(),
)
def test_equals_the_definition(
    rois, num_levels, channels, size, output_size, sampling_ratio, aligned, dtype, channels_last
):
    features = pyramid(num_levels, 2, channels, size, dtype, channels_last)
    rois = torch.tensor(rois, dtype=torch.float64).reshape(-1, 5)
    if sampling_ratio == 0 and dtype != torch.float64:
        # Where the number of samples is about to change, float32 may count one more or less.
        for low, high, bins in ((1, 3, output_size[1]), (2, 4, output_size[0])):
            cells = (rois[:, high] - rois[:, low])[:, None] * torch.tensor(SCALES) / bins
            rois = rois[((cells - cells.round()).abs() > 1e-4).all(1)]
    scales = SCALES[:num_levels]
    given_rois = rois if dtype == torch.float64 else rois.float()
    actual = roi_align_pyramid(features, given_rois, scales, output_size, sampling_ratio, aligned)
    expected = roi_align_reference.roi_align_pyramid(
        features, rois, scales, output_size, sampling_ratio, aligned
    )
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    assert_close(actual, expected, dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("channels", [3, 130])
def test_forward_and_gradient_equal_torchvision(
    dtype, channels_last, aligned, sampling_ratio, channels
):
    """One level; both directions; torchvision in float64."""
    (feature,) = pyramid(1, 2, channels, (20, 28), dtype, channels_last)
    rois = boxes()
    feature.requires_grad_()
    actual = roi_align_pyramid([feature], rois, [0.25], (7, 5), sampling_ratio, aligned)
    reference = feature.detach().double().requires_grad_()
    expected = torchvision.ops.roi_align(
        reference, rois.double(), (7, 5), 0.25, sampling_ratio, aligned
    )
    assert is_channels_last(actual) == channels_last
    assert_close(actual, expected, dtype)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (actual * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    assert is_channels_last(feature.grad) == channels_last
    assert_close(feature.grad, reference.grad, dtype)


@pytest.mark.parametrize("channels_last", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradients_of_first_and_second_order(channels_last):
    features = pyramid(2, 2, 3, (10, 12), torch.float64, channels_last)
    rois = boxes(6, size=(40, 48)).double()
    rois[0, 3:] = rois[0, 1:3] + 200  # on the second level
    features = [feature.requires_grad_() for feature in features]

    def op(*maps):
        return roi_align_pyramid(maps, rois, SCALES[:2], (3, 2), 0, True, 32)

    assert torch.autograd.gradcheck(op, features)
    assert torch.autograd.gradgradcheck(op, features)


def test_result_is_the_same_for_every_number_of_threads_and_run():
    features = pyramid(3, 2, 70, (60, 80), channels_last=True)
    rois = boxes(200, size=(240, 320))
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5, 1):
            torch.set_num_threads(count)
            maps = [feature.clone().requires_grad_() for feature in features]
            output = roi_align_pyramid(maps, rois, SCALES, 7, canonical_box_size=64)
            (output * output.detach().cos()).sum().backward()
            results.append([output.detach(), *(m.grad for m in maps)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_levels_are_detectron2s_on_the_boundaries_too():
    sides = [224 * 2.0**k for k in range(-4, 4)]
    values = [v for s in sides for v in _neighbours(s)] + [0.0, 1.0, 1e-20, 5000.0]
    boxes_ = torch.tensor([[0, 0, a, b] for a in values for b in values], dtype=torch.float32)
    expected = assign_boxes_to_levels([Boxes(boxes_)], 2, 5, 224, 4)
    rois = torch.cat([torch.zeros(len(boxes_), 1), boxes_], 1)
    assert torch.equal(assign_levels(rois, 4, 2, 224, 4), expected)
    # A map of each level holds its number, so the op's output tells which it took.
    features = [torch.full((1, 1, 1280 >> i, 1280 >> i), float(i)) for i in range(4)]
    output = roi_align_pyramid(features, rois, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 1, 1)
    assert torch.equal(output[:, 0, 0, 0].round().long(), expected)


def _neighbours(value: float) -> list[float]:
    single = np.float32(value)
    below, above = np.nextafter(single, np.float32(0)), np.nextafter(single, np.float32(1e9))
    return [float(np.nextafter(below, np.float32(0))), float(below), value, float(above)]


def test_levels_may_be_given():
    features = pyramid(3)
    rois = boxes(4)
    levels = torch.tensor([2, 0, -1, 3])
    output = roi_align_pyramid(features, rois, SCALES, 3, levels=levels)
    for row, level in ((0, 2), (1, 0)):
        alone = roi_align_pyramid([features[level]], rois[row : row + 1], [SCALES[level]], 3)
        torch.testing.assert_close(output[row], alone[0])
    assert (output[2:] == 0).all()
    strided = torch.tensor([2, 9, 0, 9, -1, 9, 3, 9])[::2]
    assert torch.equal(roi_align_pyramid(features, rois, SCALES, 3, levels=strided), output)
    # Levels need not form a pyramid then.
    same = roi_align_pyramid(features[:2], rois, [0.3, 0.3], 3, levels=torch.zeros(4).long())
    torch.testing.assert_close(same, roi_align_pyramid(features[:1], rois, [0.3], 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", [1, 2, 3, 4])
def test_a_box_that_is_not_finite_gives_zeros_and_no_gradient(bad, column):
    (feature,) = pyramid(1)
    rois = boxes(2)
    rois[1, column] = bad
    feature.requires_grad_()
    output = roi_align_pyramid([feature], rois, [0.25], 4)
    assert (output[1] == 0).all()
    (grad,) = torch.autograd.grad(output.sum(), feature)
    (alone,) = torch.autograd.grad(roi_align_pyramid([feature], rois[:1], [0.25], 4).sum(), feature)
    torch.testing.assert_close(grad, alone)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_degenerate_and_inverted_boxes(sampling_ratio):
    (feature,) = pyramid(1, dtype=torch.float64)
    rois = torch.tensor(
        [[0, 10, 10, 10, 30], [0, 10, 10, 10, 10], [1, 30, 30, 10, 10], [1, 30, 10, 10, 30],
         [0, -90, -90, -50, -50], [0, 500, 500, 900, 900], [1, -4, -4, 0, 0]],
        dtype=torch.float64,
    )  # fmt: skip
    for aligned in (False, True):
        actual = roi_align_pyramid([feature], rois, [0.25], 3, sampling_ratio, aligned)
        expected = roi_align_reference.roi_align_pyramid(
            [feature], rois, [0.25], (3, 3), sampling_ratio, aligned
        )
        assert_close(actual, expected, torch.float64)
    # Of several levels, Detectron2 gives none to a box of negative area.
    several = roi_align_pyramid(pyramid(2), rois[3:4].float(), SCALES[:2], 3, sampling_ratio)
    assert (several == 0).all()


def test_empty_inputs():
    features = [feature.requires_grad_() for feature in pyramid(2)]
    output = roi_align_pyramid(features, torch.zeros(0, 5), SCALES[:2], (3, 4))
    assert output.shape == (0, 5, 3, 4)
    grads = torch.autograd.grad(output.sum(), features)
    assert all((grad == 0).all() for grad in grads)
    for shape in ((0, 5, 8, 8), (2, 0, 8, 8)):
        rois = torch.zeros(0, 5) if shape[0] == 0 else boxes(2)
        empty = roi_align_pyramid([torch.zeros(shape)], rois, [0.25], 2)
        assert empty.shape == (len(rois), shape[1], 2, 2)
    no_pixels = roi_align_pyramid([torch.zeros(1, 2, 0, 5)], torch.zeros(1, 5), [0.25], 2)
    assert (no_pixels == 0).all()


@pytest.mark.skipif(not COMPILED, reason="torchvision's cost grows with the box's area")
def test_a_huge_box_costs_no_more_than_its_pixels():
    features = [torch.ones(1, 64, 100, 100).to(memory_format=torch.channels_last)]
    rois = torch.tensor(
        [[0, -1e4, -1e4, 1e4, 1e4], [0, -3e38, -3e38, 3e38, 3e38], [0, -1e9, 0, 1e9, 400]]
    )
    start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    output = roi_align_pyramid(features, rois, [0.25], 7)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - start < 0.5
    assert torch.isfinite(output).all()
    # The cell in the middle is 714.3 px wide; of its 715 x 715 samples, 101 x 101 are on the map.
    torch.testing.assert_close(
        output[0, :, 3, 3], torch.full((64,), (101 / 715) ** 2), rtol=0.02, atol=0
    )


@pytest.mark.slow
@pytest.mark.skipif(not COMPILED, reason="needs the compiled library")
@pytest.mark.parametrize("capability", ["generic", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same(capability, tmp_path):
    code = (
        "from tests.layers.test_roi_align import *\n"
        "import sys, torch\n"
        "torch.manual_seed(0)\n"
        "out = []\n"
        "for dtype in TOLERANCE:\n"
        "    for last in (False, True):\n"
        "        maps = [m.requires_grad_() for m in pyramid(3, 2, 131, (40, 50), dtype, last)]\n"
        "        y = roi_align_pyramid(maps, boxes(40, size=(160, 200)), SCALES, 7)\n"
        "        y.float().square().sum().backward()\n"
        "        out.append([y.detach().float(), *(m.grad.float() for m in maps)])\n"
        "torch.save(out, sys.argv[1])\n"
        "print(OPS._cpu_capability())"
    )
    results = {}
    for name in ("", capability):
        path = tmp_path / f"{name or 'best'}.pt"
        result = run_python(
            ["-W", "ignore", "-c", code, path], env={"MRCNN_EXT_CPU_CAPABILITY": name}, cwd=REPO
        )
        if "does not have" in result.stderr:
            pytest.skip(f"this processor has no {capability}")
        assert result.returncode == 0, result.stderr
        results[name] = torch.load(path)
    assert result.stdout.strip() == capability
    for dtypes in zip([d for d in TOLERANCE for _ in range(2)], *results.values()):
        for a, b in zip(*dtypes[1:]):
            assert_close(a, b, torch.bfloat16 if dtypes[0] == torch.bfloat16 else torch.float16)


# -- What torch does with the op -------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(channels_last):
    maps = [m.requires_grad_() for m in pyramid(2, channels_last=channels_last)]
    rois = boxes(4)
    rest = (0, True, 224.0, 4)
    torch.library.opcheck(
        OPS.roi_align_pyramid.default, (maps, rois, None, SCALES[:2], [3, 2], *rest)
    )
    output = roi_align_pyramid(maps, rois, SCALES[:2], (3, 2)).detach()
    sizes = ([m.shape[2] for m in maps], [m.shape[3] for m in maps])
    torch.library.opcheck(
        OPS.roi_align_pyramid_backward.default,
        (output.requires_grad_(), rois, None, SCALES[:2], 2, *sizes, channels_last, *rest),
    )


class Module(torch.nn.Module):
    def forward(self, first, second, rois):
        return roi_align_pyramid([first, second], rois, SCALES[:2], 3).sin()


def test_compile_and_export():
    maps = [m.requires_grad_() for m in pyramid(2)]
    rois = boxes(4)
    module = Module()
    expected = module(*maps, rois)
    grads = torch.autograd.grad(expected.sum(), maps)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    output = compiled(*maps, rois)
    torch.testing.assert_close(output, expected)
    for a, b in zip(torch.autograd.grad(output.sum(), maps), grads):
        torch.testing.assert_close(a, b)
    count = torch.export.Dim("count", min=2, max=1000)
    program = torch.export.export(
        module, (*[m.detach() for m in maps], rois), dynamic_shapes=(None, None, {0: count})
    )
    more = boxes(9, seed=3)
    torch.testing.assert_close(
        program.module()(*[m.detach() for m in maps], more), module(*maps, more)
    )


def test_autocast_changes_nothing():
    for dtype in (torch.float32, torch.bfloat16):
        maps = pyramid(2, dtype=dtype)
        expected = roi_align_pyramid(maps, boxes(4), SCALES[:2], 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = roi_align_pyramid(maps, boxes(4), SCALES[:2], 3)
        assert actual.dtype == dtype
        assert torch.equal(actual, expected)


def test_boxes_keep_their_precision_in_half_precision_features():
    """Near x = 1200, bfloat16 knows multiples of 8 only."""
    ramp = (torch.arange(400.0) - 300).expand(1, 1, 4, 400).contiguous()
    rois = torch.tensor([[0, 1201.0, 2.0, 1213.0, 14.0]])
    exact = roi_align_pyramid([ramp], rois, [0.25], 3)
    for dtype in (torch.float16, torch.bfloat16):
        half = roi_align_pyramid([ramp.to(dtype)], rois, [0.25], 3)
        assert (half - exact).abs().max() < 0.01
    # What rounding the box first would give.
    moved = roi_align_pyramid([ramp], rois.bfloat16().float(), [0.25], 3)
    assert (moved - exact).abs().max() > 0.2


# -- Bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"features": []}, ValueError, "features is empty"),
        ({"features": [torch.zeros(3, 4, 4)]}, ValueError, "features[0] must be (N, C, H, W)"),
        ({"features": [torch.zeros(1, 2, 4, 4).int()]}, TypeError, "features[0] is torch.int32"),
        ({"rois": torch.zeros(3, 4)}, ValueError, "rois must be (R, 5)"),
        ({"rois": torch.zeros(3, 5).half()}, TypeError, "rois is torch.float16"),
        ({"rois": torch.zeros(3, 5, device="meta")}, ValueError, "rois is on meta"),
        ({"rois": torch.tensor([[0.0] * 5, [2.0] * 5])}, ValueError, "rois[1] has batch index 2"),
        ({"rois": torch.tensor([[-1.0] * 5])}, ValueError, "rois[0] has batch index -1"),
        ({"rois": torch.tensor([[0.5] * 5])}, ValueError, "rois[0] has batch index 0.5"),
        ({"rois": torch.full((1, 5), torch.nan)}, ValueError, "rois[0] has batch index nan"),
        ({"scales": [0.25, 0.125]}, ValueError, "1 features need as many scales"),
        ({"scales": [-1.0]}, ValueError, "scales must be positive"),
        ({"output_size": (0, 7)}, ValueError, "output_size"),
        ({"output_size": (7, 7, 7)}, ValueError, "output_size"),
        ({"output_size": (7, 0.5)}, ValueError, "output_size must be a whole number, not 0.5"),
        ({"sampling_ratio": -1}, ValueError, "sampling_ratio"),
        ({"sampling_ratio": -1.0}, ValueError, "sampling_ratio must be 0 (adaptive) or more"),
        ({"sampling_ratio": 0.5}, ValueError, "sampling_ratio must be a whole number, not 0.5"),
        ({"canonical_level": 4.5}, ValueError, "canonical_level must be a whole number, not 4.5"),
        ({"canonical_box_size": 0}, ValueError, "canonical_box_size"),
        ({"levels": torch.zeros(2).long()}, ValueError, "levels must be (3,)"),
        ({"levels": torch.zeros(3)}, TypeError, "levels must be int64"),
    ],
)
def test_bad_arguments_are_named(change, error, words):
    arguments = {
        "features": [torch.zeros(2, 3, 8, 8)], "rois": torch.zeros(3, 5), "scales": [0.25],
        "output_size": 7,
    }  # fmt: skip
    with pytest.raises(error) as caught:
        roi_align_pyramid(**{**arguments, **change})
    assert words in str(caught.value)


@pytest.mark.parametrize("ratio", [0, 2])
def test_whole_numbers_may_be_floats(ratio):
    """Detectron2's own test of scripted poolers has sampling_ratio=0.0."""
    maps, rois = pyramid(2, 2, 3, (16, 24)), boxes(4)
    expected = roi_align_pyramid(maps, rois, SCALES[:2], (3, 5), ratio, canonical_level=4)
    actual = roi_align_pyramid(maps, rois, SCALES[:2], (3.0, 5), float(ratio), canonical_level=4.0)
    assert torch.equal(actual, expected)


def test_features_that_do_not_go_together_are_named():
    first = torch.zeros(2, 3, 8, 8)
    for second, error, words in (
        (first.double(), TypeError, "features[1] is torch.float64, but features[0]"),
        (torch.zeros(2, 4, 4, 4), ValueError, "features[1] has (N, C) = (2, 4)"),
        (torch.zeros(2, 3, 4, 4, device="meta"), ValueError, "features[1] is on meta"),
    ):
        with pytest.raises(error) as caught:
            roi_align_pyramid([first, second], torch.zeros(1, 5), [0.25, 0.125], 7)
        assert words in str(caught.value)
    with pytest.raises(ValueError, match="each half of the one before"):
        roi_align_pyramid([first, first], torch.zeros(1, 5), [0.25, 0.25], 7)


# -- Memory, and life without kernels --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not COMPILED, reason="torchvision's path copies levels")
def test_memory_is_the_output_and_little_more():
    """Peak memory of a process that pools 300 boxes from 64 MB of features into 60 MB."""
    code = (
        "import resource, torch\n"
        "from tests.layers.test_roi_align import *\n"
        "maps = [torch.ones(1, 256, 256 >> i, 256 >> i).to(memory_format=torch.channels_last)"
        " for i in range(3)]\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "roi_align_pyramid(maps, boxes(2, 1), SCALES, 14)\n"
        "before = peak()\n"
        "out = roi_align_pyramid(maps, boxes(300, 1, (1024, 1024)), SCALES, 14)\n"
        "print(peak() - before, out.numel() * 4 / 2**20)"
    )
    result = run_python(["-W", "ignore", "-c", code], cwd=REPO)
    assert result.returncode == 0, result.stderr
    used, output = map(float, result.stdout.split())
    assert used < output + 8


@pytest.mark.slow
@pytest.mark.skipif(not COMPILED, reason="this is the run without kernels")
def test_everything_holds_without_compiled_kernels():
    env = {**os.environ, "MRCNN_EXT_KERNELS": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, env=env, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "needs the compiled library" in result.stdout
