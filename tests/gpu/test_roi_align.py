# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""roi_align_pyramid on a GPU: against float64, run by run, with bad input, in large tensors."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from mrcnn_ext.layers import roi_align_pyramid
from mrcnn_ext.modeling import FusedROIPooler
from tests.gpu import DEVICE, needs_kernels
from tests.helpers import run_python

pytestmark = needs_kernels

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
# Rounding of the result's own type, besides that of float32 arithmetic.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 5e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}


def pyramid(images, channels, size, dtype=torch.float32, channels_last=True, levels=4):
    generator = torch.Generator(DEVICE).manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [
        torch.randn(
            (images, channels, max(size[0] >> i, 1), max(size[1] >> i, 1)),
            generator=generator,
            device=DEVICE,
        )
        .to(dtype)
        .to(memory_format=layout)
        for i in range(levels)
    ]


def make_rois(count, images, size, seed=0):
    """Boxes of all sizes, some over the border; ``size`` of the image."""
    generator = torch.Generator().manual_seed(seed)
    side = 8 * 64 ** torch.rand(count, 2, generator=generator)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([size[1], size[0]])
    index = torch.randint(images, (count, 1), generator=generator).float()
    return torch.cat([index, centre - side / 2, centre + side / 2], 1)


def without_jumps(rois, sides, ratio):
    """Boxes for which float32 and float64 agree on level and number of samples."""
    wide = rois.double()[:, 3:] - rois.double()[:, 1:3]
    level = 4 + torch.log2(wide.prod(1).sqrt() / 64)
    good = (level - level.round()).abs() > 1e-4
    if ratio == 0:
        cells = wide[:, None] * torch.tensor(SCALES)[:, None] / torch.tensor(sides[::-1])
        good &= ((cells - cells.round()).abs() > 1e-4).all(2).all(1)
    return rois[good]


def both_directions(maps, rois, sides, ratio, aligned=True, **arguments):
    """(output, gradients), for a gradient of the output that depends on its shape alone."""
    maps = [m.detach().requires_grad_() for m in maps]
    scales = SCALES[: len(maps)]
    output = roi_align_pyramid(maps, rois, scales, sides, ratio, aligned, 64, **arguments)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return output.detach(), torch.autograd.grad(output, maps, weight)


def assert_close(actual, expected, dtype):
    expected = expected.double()
    error = (actual.double() - expected).abs() / (1 + expected.abs())
    assert torch.isfinite(error).all()
    assert error.max() < TOLERANCE[dtype], f"error {error.max():.2e}"


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("channels", "sides", "ratio", "aligned"),
    [
        (256, (7, 7), 0, True),
        (256, (14, 14), 0, True),
        (5, (7, 7), 2, False),
        (96, (3, 20), 1, True),
        (1, (1, 1), 0, True),
        (68, (30, 2), 3, False),
    ],
)
def test_equals_float64_on_the_cpu(dtype, channels_last, channels, sides, ratio, aligned):
    maps = pyramid(2, channels, (64, 88), dtype, channels_last)
    rois = without_jumps(make_rois(400, 2, (256, 352)), sides, ratio)
    given = rois.double() if dtype == torch.float64 else rois
    output, grads = both_directions(maps, given.to(DEVICE), sides, ratio, aligned)
    maps = [m.double().cpu() for m in maps]
    expected, expected_grads = both_directions(maps, rois.double(), sides, ratio, aligned)
    assert_close(output.cpu(), expected, dtype)
    for actual, other in zip(grads, expected_grads):
        # Dozens of RoIs lie on each pixel, and what float32 rounds of each of them adds up.
        scale = max(1.0, float(other.abs().max()) / 8)
        assert_close(actual.double().cpu() / scale, other / scale, dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_the_same_bits_in_every_run_while_the_gpu_is_busy(dtype):
    maps = pyramid(2, 256, (200, 336), dtype)
    rois = make_rois(1000, 2, (800, 1344)).to(DEVICE)
    first = both_directions(maps, rois, 7, 0)
    other = torch.cuda.Stream()
    noise = torch.randn(2048, 2048, device=DEVICE)
    for turn in range(5):
        with torch.cuda.stream(other):  # other work comes between the blocks
            for _ in range(4 * turn):
                noise = (noise @ noise).clamp(-1, 1)
        output, grads = both_directions(maps, rois, 7, 0)
        assert torch.equal(output, first[0])
        assert all(torch.equal(a, b) for a, b in zip(grads, first[1]))


def test_every_element_is_written():
    """Whatever the memory held before."""
    maps = pyramid(2, 64, (50, 70))
    rois = make_rois(300, 2, (200, 280)).to(DEVICE)
    results = []
    for value in (float("nan"), 7.0):
        torch.cuda.empty_cache()
        blocks = [torch.full((2**22,), value, device=DEVICE) for _ in range(8)]
        del blocks  # the allocator hands them out again
        results.append(both_directions(maps, rois, (7, 5), 2))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1]))


def test_bad_rois_disturb_no_others():
    maps = pyramid(2, 64, (50, 70))
    rois = make_rois(64, 2, (200, 280))
    bad = rois.clone()
    bad[0, 0], bad[1, 0], bad[2, 0], bad[3, 0] = 2, -1, float("nan"), 1e30
    bad[4, 1], bad[5, 4], bad[6, 2] = float("nan"), float("inf"), -float("inf")
    bad[7, 1:] = torch.tensor([-3e38, -3e38, 3e38, 3e38])
    bad[8, 1:] = torch.tensor([1e9, 1e9, 2e9, 2e9])
    bad[9, 3:] = bad[9, 1:3]
    bad[10, 1:] = bad[10, [3, 4, 1, 2]]
    for ratio in (0, 2):
        output, grads = both_directions(maps, bad.to(DEVICE), 7, ratio)
        good, _ = both_directions(maps, rois.to(DEVICE), 7, ratio)
        assert torch.isnan(output[:4]).all()
        assert (output[4:7] == 0).all()
        assert torch.isfinite(output[4:]).all()
        assert torch.equal(output[11:], good[11:])
        assert all(torch.isfinite(g).all() for g in grads)
    levels = torch.tensor([-1, 4, 2**40, -(2**40)] + [0] * 60, device=DEVICE)
    output, _ = both_directions(maps, rois.to(DEVICE), 7, 2, levels=levels)
    assert (output[:4] == 0).all()
    assert (output[4:].abs().amax(dim=(1, 2, 3)) > 0).all()


def test_wrong_arguments_are_errors_that_name_them():
    maps = pyramid(1, 4, (16, 16), levels=1)
    rois = make_rois(3, 1, (64, 64))
    with pytest.raises(ValueError, match=r"rois is on cpu, but features are on cuda"):
        roi_align_pyramid(maps, rois, [0.25], 7)
    levels = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="levels is on cpu"):
        roi_align_pyramid(maps, rois.to(DEVICE), [0.25], 7, levels=levels)
    with pytest.raises(TypeError, match="float16"):
        roi_align_pyramid(maps, rois.half().to(DEVICE), [0.25], 7)
    many = [torch.zeros(1, 1, 1, 1, device=DEVICE)] * 17
    levels = levels.to(DEVICE)
    with pytest.raises(RuntimeError, match="up to 16 feature maps"):
        roi_align_pyramid(many, rois.to(DEVICE), [0.25] * 17, 7, levels=levels)
    torch.cuda.synchronize()  # and the device goes on
    assert torch.isfinite(roi_align_pyramid(maps, rois.to(DEVICE), [0.25], 7)).all()


@pytest.mark.parametrize("channels_last", [False, True])
def test_more_elements_than_32_bits_count(channels_last):
    free, _ = torch.cuda.mem_get_info()
    if free < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    shape = (3, 1024, 880, 880)  # 2.4e9 elements
    layout = torch.channels_last if channels_last else torch.contiguous_format
    feature = torch.empty(shape, dtype=torch.float16, device=DEVICE, memory_format=layout)
    small = torch.randn((1024, 16, 16), device=DEVICE).half()
    feature.zero_()[2, :, -16:, -16:] = small
    feature.requires_grad_()
    rois = torch.tensor([[2, 864.0, 864, 880, 880]], device=DEVICE)
    output = roi_align_pyramid([feature], rois, [1.0], 7, 2)
    corner = torch.zeros((1, 1024, 32, 32), dtype=torch.float16, device=DEVICE)
    corner[0, :, 16:, 16:] = small
    corner.requires_grad_()
    expected = roi_align_pyramid(
        [corner], torch.tensor([[0, 16.0, 16, 32, 32]], device=DEVICE), [1.0], 7, 2
    )
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3)
    (grad,) = torch.autograd.grad(output, feature, torch.ones_like(output))
    (expected_grad,) = torch.autograd.grad(expected, corner, torch.ones_like(expected))
    torch.testing.assert_close(
        grad[2, :, -17:, -17:], expected_grad[0, :, -17:, -17:], rtol=1e-3, atol=1e-3
    )
    # Nothing elsewhere: places in memory were not counted round
    assert int(grad.count_nonzero()) == int(grad[2, :, -17:, -17:].count_nonzero())


def test_pooler_equals_detectron2s():
    maps = pyramid(2, 64, (200, 336), channels_last=False)
    rois = make_rois(600, 2, (800, 1344)).to(DEVICE)
    boxes = [Boxes(rois[rois[:, 0] == i, 1:].clamp(0, 800)) for i in range(2)]
    results = []
    for kind in (FusedROIPooler, ROIPooler):
        pooler = kind(7, tuple(SCALES), 2, "ROIAlignV2")
        leaves = [m.detach().requires_grad_() for m in maps]
        output = pooler(leaves, boxes)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
        results.append([output.detach(), *torch.autograd.grad(output, leaves, weight)])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    maps = pyramid(2, 32, (50, 70))
    rois = make_rois(50, 2, (200, 280)).to(DEVICE)
    expected = both_directions(maps, rois, 7, 0)
    with torch.autocast("cuda", dtype=dtype):
        output, grads = both_directions(maps, rois, 7, 0)
    assert torch.equal(output, expected[0])
    assert all(torch.equal(a, b) for a, b in zip(grads, expected[1]))


def test_no_rois_and_no_images():
    maps = pyramid(2, 8, (20, 28))
    output, grads = both_directions(maps, torch.zeros(0, 5, device=DEVICE), 7, 0)
    assert output.shape == (0, 8, 7, 7)
    assert all((g == 0).all() for g in grads)
    output, grads = both_directions([m[:0] for m in maps], torch.zeros(0, 5, device=DEVICE), 7, 0)
    assert output.shape == (0, 8, 7, 7)
    assert [g.shape for g in grads] == [m[:0].shape for m in maps]


def test_compiles_as_one_graph():
    maps = [m.requires_grad_() for m in pyramid(1, 16, (20, 28))]
    rois = make_rois(20, 1, (80, 112)).to(DEVICE)

    def function(*maps):
        return roi_align_pyramid(maps, rois, SCALES, 7).relu().sum()

    compiled = torch.compile(function, fullgraph=True)
    results = [torch.autograd.grad(f(*maps), maps) for f in (function, compiled)]
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_opcheck():
    maps = [m.requires_grad_() for m in pyramid(1, 4, (10, 12), levels=2)]
    rois = make_rois(5, 1, (40, 48)).to(DEVICE)
    arguments = (maps, rois, None, SCALES[:2], [3, 2], 2, True, 32.0, 4)
    torch.library.opcheck(torch.ops.mrcnn_ext.roi_align_pyramid.default, arguments)


def test_without_the_library_results_are_the_same(tmp_path):
    code = (
        "import sys, torch\n"
        "from tests.gpu.test_roi_align import DEVICE, both_directions, make_rois, pyramid\n"
        "from mrcnn_ext.layers import kernel_status\n"
        "assert not any(status.loaded for status in kernel_status())\n"
        "rois = make_rois(100, 2, (200, 280)).to(DEVICE)\n"
        "torch.save(both_directions(pyramid(2, 32, (50, 70)), rois, (7, 5), 2), sys.argv[1])\n"
    )
    path = tmp_path / "result.pt"
    result = run_python(["-W", "ignore", "-c", code, path], env={"MRCNN_EXT_KERNELS": "0"})
    assert result.returncode == 0, result.stderr
    expected = torch.load(path)
    rois = make_rois(100, 2, (200, 280)).to(DEVICE)
    output, grads = both_directions(pyramid(2, 32, (50, 70)), rois, (7, 5), 2)
    torch.testing.assert_close(output, expected[0], rtol=1e-4, atol=1e-4)
    for a, b in zip(grads, expected[1]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
