# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of roi_align_pyramid.

Most tests need no GPU: the kernels' code is compiled as plain C++ and run thread by thread, see
csrc/roi_align_cuda_emulation.cpp. Those at the end do.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.layers import build_kernels, kernel_status, roi_align_pyramid
from mrcnn_ext.layers.roi_align import ops as roi_align_ops
from tests.helpers import run_python
from tests.layers import test_roi_align
from tests.layers.csrc.roi_align_cuda_helpers import (
    COMPILER,
    ORDERS,
    any_roi,
    compare_with_the_cpu,
    compile_source,
    filled,
    find_cuobjdump,
    geometry,
    huge_boxes,
    load_emulation,
    on_both_devices,
    tiny_boxes,
)
from tests.layers.test_roi_align import SCALES, TOLERANCE, assert_close, boxes, pyramid

CPU_COMPILED, CUDA_COMPILED = (status.loaded for status in kernel_status())
needs_compiler = pytest.mark.skipif(not COMPILER, reason="there is no g++")

# -- Emulation -------------------------------------------------------------------------------------


def emulation(tmp_path_factory, name: str, *flags: str):
    try:
        return load_emulation(tmp_path_factory.mktemp(name), f"mrcnn_ext_{name}", *flags)
    except build_kernels.BuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    return emulation(tmp_path_factory, "emulation")


@pytest.fixture(scope="session")
def emulated_fused(tmp_path_factory):
    """With fused multiply-adds, as nvcc makes them."""
    if platform.machine() != "x86_64" or torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has no fused multiply-add")
    return emulation(tmp_path_factory, "emulation_fused", "-mfma", "-ffp-contract=fast")


@needs_compiler
@settings(max_examples=200, deadline=None)
@given(
    rois=st.lists(any_roi, max_size=6),
    num_levels=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 3, 4, 16, 33, 64, 65, 130]),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    output_size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    ratio=st.sampled_from([0, 1, 2, 5]),
    aligned=st.booleans(),
    dtypes=st.sampled_from([(a, b) for a in TOLERANCE for b in (torch.float32, torch.float64)]),
    levels=st.lists(st.integers(-1, 3), min_size=6, max_size=6) | st.none(),
    formats=st.tuples(st.booleans(), st.booleans()),
)
def test_equals_the_cpu_kernels(
    emulated, rois, num_levels, channels, size, output_size, ratio, aligned, dtypes, levels, formats
):
    maps = pyramid(num_levels, 2, channels, size, dtypes[0], channels_last=formats[0])
    rois = torch.tensor(rois, dtype=torch.float64).reshape(-1, 5).to(dtypes[1])
    levels = None if levels is None else torch.tensor(levels)[: len(rois)]
    arguments = geometry(rois, SCALES[:num_levels], ratio, levels=levels, aligned=aligned)
    compare_with_the_cpu(emulated, maps, output_size, arguments, formats[1])


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(7, 7), (14, 9), (1, 1)])
def test_more_rois_than_a_block_has_threads(emulated, dtype, size):
    rois = boxes(700, size=(200, 260))
    rois[::50, 0] = 7
    rois[::60, 1] = torch.nan
    maps = pyramid(3, 2, 36, (50, 65), dtype, channels_last=True)
    compare_with_the_cpu(emulated, maps, size, geometry(rois.to(dtype), SCALES, 0))


@needs_compiler
@pytest.mark.parametrize("size", [(130, 140), (2, 300), (300, 1)])
def test_more_bins_than_a_block_has_threads(emulated, size):
    maps = pyramid(1, 2, 5, (30, 40), torch.float64, channels_last=True)
    rois = boxes(4, size=(120, 160), inverted=True).double()
    for ratio in (0, 2):
        compare_with_the_cpu(emulated, maps, size, geometry(rois, [0.25], ratio))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2, 5])
def test_equals_torchvision(emulated, dtype, aligned, ratio):
    forward, backward = emulated
    (feature,) = pyramid(1, 2, 12, (20, 28), dtype)
    feature.requires_grad_()
    rois = boxes(40).to(dtype)
    expected = torchvision.ops.roi_align(feature, rois, (7, 5), 0.25, ratio, aligned)
    arguments = geometry(rois, [0.25], ratio, aligned=aligned)
    actual = torch.full_like(expected, torch.nan)
    forward([feature.detach()], *arguments, actual)
    assert_close(actual, expected.detach(), dtype)
    weight = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, feature, weight)
    grad = torch.full_like(expected_grad, torch.nan)
    backward(weight, *arguments, [grad])
    assert_close(grad, expected_grad, dtype)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_of_first_and_second_order(emulated, channels_last, monkeypatch):
    monkeypatch.setitem(roi_align_ops.ROI_ALIGN_FORWARD.compiled, "cpu", emulated[0])
    monkeypatch.setitem(roi_align_ops.ROI_ALIGN_BACKWARD.compiled, "cpu", emulated[1])
    test_roi_align.test_gradients_of_first_and_second_order(channels_last)


@needs_compiler
@pytest.mark.skipif(not CPU_COMPILED, reason="torchvision adds thousands of cells up one by one")
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-5, 1e-4, 1e-2])
def test_tiny_boxes(emulated, size, inverted):
    maps = pyramid(1, 1, 4, (30, 30), channels_last=True)
    for ratio in (1, 5):
        arguments = geometry(tiny_boxes(size, inverted), [0.25], ratio)
        compare_with_the_cpu(emulated, maps, (14, 14), arguments)


@needs_compiler
@pytest.mark.skipif(not CPU_COMPILED, reason="torchvision's ops limit coordinates")
@pytest.mark.parametrize("extent", [1e4, 1e6, 3e7, 3e38])
def test_huge_boxes(emulated, extent):
    maps = pyramid(1, 1, 4, (30, 30), channels_last=True)
    for ratio in (0, 2):
        compare_with_the_cpu(emulated, maps, (7, 7), geometry(huge_boxes(extent), [0.25], ratio))


@needs_compiler
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("size", [None, 1e-5, 1e-2])
def test_backward_is_the_transpose_of_forward_with_fused_multiply_adds(
    emulated_fused, size, inverted
):
    """And neither depends on the order of threads."""
    forward, backward = emulated_fused
    rois = boxes(300, inverted=inverted) if size is None else tiny_boxes(size, inverted)
    (feature,) = pyramid(1, 2, 4, (30, 30), channels_last=True)
    weight = torch.randn(len(rois), 4, 9, 7, generator=torch.Generator().manual_seed(1))
    for ratio in (0, 1, 5):
        arguments = geometry(rois, [0.25], ratio)
        products = []
        for order in ORDERS:
            output, grad = torch.empty_like(weight), torch.empty_like(feature)
            forward([feature], *arguments, output, order=order)
            backward(weight, *arguments, [grad], order=order)
            products.append([(output * weight).double().sum(), (grad * feature).double().sum()])
        torch.testing.assert_close(*products[0], rtol=1e-4, atol=1e-3)
        assert products[0] == products[1] == products[2]


@needs_compiler
@pytest.mark.parametrize("extent", [1e4, 1e6, 3e7, 3e38])
def test_huge_boxes_with_fused_multiply_adds(emulated_fused, extent):
    forward, _ = emulated_fused
    maps = pyramid(1, 1, 4, (30, 30), channels_last=True)
    for ratio in (0, 2):
        outputs = [filled(12, 4, 7, 7) for _ in ORDERS]
        for order, output in zip(ORDERS, outputs):
            forward(maps, *geometry(huge_boxes(extent), [0.25], ratio), output, order=order)
        assert torch.isfinite(outputs[0]).all()
        assert all(torch.equal(outputs[0], other) for other in outputs[1:])


@needs_compiler
@pytest.mark.parametrize("channels_last", [False, True])
def test_maps_without_pixels_and_no_rois(emulated, channels_last):
    sizes = ((9, 8), (0, 5), (1, 1), (3, 0))  # the first one has the memory format of all
    maps = [filled(2, 4, *size, value=1, channels_last=channels_last) for size in sizes]
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    # Every other one of these: levels need not be contiguous.
    levels = torch.tensor([0, 9, 1, 9, 2, 9, 3, 9])
    arguments = geometry(boxes(4), scales, 2, levels=levels[::2].contiguous())
    compare_with_the_cpu(emulated, maps, (3, 3), arguments)
    outputs = [filled(4, 4, 3, 3) for _ in range(2)]
    emulated[0](maps, *arguments, outputs[0])
    emulated[0](maps, *geometry(boxes(4), scales, 2, levels=levels[::2]), outputs[1])
    assert torch.equal(*outputs)
    grads = [torch.full_like(m, torch.nan) for m in maps]
    emulated[1](filled(0, 4, 3, 3), *geometry(boxes(0), scales, 2), grads)
    assert all((grad == 0).all() for grad in grads)


@needs_compiler
def test_vectors_are_used_where_channels_and_addresses_allow(emulated):
    def widths(dtype, channels, offset=0):
        shape = (2, channels, 20, 28)
        flat = torch.randn(math.prod(shape) + offset).to(dtype)[offset:]
        maps = [flat.view(2, 20, 28, channels).permute(0, 3, 1, 2)]
        pooled = filled(3, channels, 2, 2, dtype=dtype)
        arguments = geometry(boxes(3), [0.25], 0)
        return emulated[0](maps, *arguments, pooled), emulated[1](pooled, *arguments, maps)

    assert widths(torch.float32, 8) == (4, 4)
    assert widths(torch.float32, 8, offset=1) == (1, 1)
    assert widths(torch.float32, 6) == (1, 1)
    assert widths(torch.float64, 6) == (2, 2)
    assert widths(torch.float16, 8) == (8, 4)
    assert widths(torch.bfloat16, 4) == (1, 4)
    assert widths(torch.bfloat16, 8, offset=4) == (1, 4)


@needs_compiler
def test_an_infinite_gradient_stays_where_its_cell_read(emulated):
    rois = torch.tensor([[0, 20.0, 20.0, 84.0, 84.0]])
    for ratio in (0, 1, 2):
        for cell in ((0, 0), (3, 2), (6, 6)):
            grads = [filled(1, 4, 30, 40) for _ in range(2)]
            for value, grad in zip((1.0, float("inf")), grads):
                pooled = filled(1, 4, 7, 7, value=0)
                pooled[:, :, cell[0], cell[1]] = value
                emulated[1](pooled, *geometry(rois, [0.25], ratio), [grad])
            assert torch.equal(grads[0] != 0, ~torch.isfinite(grads[1]))


@pytest.mark.slow
@needs_compiler
def test_no_access_is_out_of_range(tmp_path):
    """In buffers of the exact size, with the compiler's sanitizers."""
    sanitize = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    try:
        program = compile_source("roi_align_cuda_memory_check.cpp", tmp_path / "check", *sanitize)
    except subprocess.CalledProcessError:
        pytest.skip("the compiler has no sanitizers")
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    result = subprocess.run([str(program), "60"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "without a report" in result.stdout


# -- Compilation -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    if not build_kernels.find_nvcc():
        pytest.skip("there is no nvcc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0")
        return build_kernels.build_cuda(tmp_path_factory.mktemp("cuda"))


@pytest.mark.slow
def test_the_library_has_code_for_each_architecture(library):
    cuobjdump = find_cuobjdump()
    if not cuobjdump:
        pytest.skip("built, but there is no cuobjdump to look into it")
    listed = subprocess.run(
        [cuobjdump, "--list-elf", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert "sm_80" in listed
    assert "sm_90" in listed


@pytest.mark.slow
@pytest.mark.skipif(not torch.version.cuda, reason="this torch has no CUDA")
def test_the_library_can_be_loaded(library):
    code = (
        "import sys, torch, mrcnn_ext.layers\n"
        "torch.ops.load_library(sys.argv[1])\n"
        "for name in ('forward', 'backward'):\n"
        "    op = f'mrcnn_ext::_roi_align_{name}'\n"
        "    assert torch._C._dispatch_has_kernel_for_dispatch_key(op, 'CUDA')\n"
    )
    result = run_python(["-W", "ignore", "-c", code, library], env={"MRCNN_EXT_KERNELS": "0"})
    assert result.returncode == 0, result.stderr


# -- On a GPU --------------------------------------------------------------------------------------

_has_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and CUDA_COMPILED),
    reason="needs a GPU" if not torch.cuda.is_available() else "needs the compiled CUDA library",
)


def needs_gpu(test):
    return pytest.mark.gpu(_has_gpu(test))


@needs_gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [3, 64, 130])
@pytest.mark.parametrize(("size", "ratio"), [((7, 7), 2), ((14, 9), 0), ((1, 30), 5)])
def test_gpu_equals_the_cpu(dtype, channels_last, channels, size, ratio):
    (output, grads), (expected, expected_grads) = on_both_devices(
        dtype, channels_last, channels, size, ratio
    )
    assert output.dtype == dtype
    assert roi_align_ops.is_channels_last(output) == channels_last
    # float32 positions against float64 ones: a sample near a pixel's border moves by a rounding.
    tolerance = torch.float16 if dtype == torch.float32 else dtype
    assert_close(output, expected, tolerance)
    for actual, other in zip(grads, expected_grads):
        assert_close(actual, other, tolerance)


@needs_gpu
@pytest.mark.parametrize("channels_last", [False, True])
def test_gpu_gives_the_same_bits_in_every_run(channels_last):
    first, second = (on_both_devices(torch.float32, channels_last)[0] for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1]))


@needs_gpu
@pytest.mark.parametrize("channels_last", [False, True])
def test_gpu_gradients_of_first_and_second_order(channels_last):
    features = [
        m.cuda().requires_grad_() for m in pyramid(2, 2, 3, (10, 12), torch.float64, channels_last)
    ]
    rois = boxes(6, size=(40, 48)).double().cuda()

    def op(*maps):
        return roi_align_pyramid(maps, rois, SCALES[:2], (3, 2), 2, True, 32)

    assert torch.autograd.gradcheck(op, features)
    assert torch.autograd.gradgradcheck(op, features)


@needs_gpu
def test_gpu_bad_rois_give_nan_or_zeros_and_no_fault():
    (feature,) = (m.cuda().requires_grad_() for m in pyramid(1, 2, 8))
    rois = boxes(6)
    rois[1, 0], rois[2, 0], rois[3, 0] = 2, -1, torch.nan
    rois[4, 3] = torch.inf
    output = roi_align_pyramid([feature], rois.cuda(), [0.25], 3, 2)
    assert torch.isnan(output[1:4]).all()
    assert (output[4] == 0).all()
    assert torch.isfinite(output[[0, 5]]).all()
    (grad,) = torch.autograd.grad(output, feature, torch.ones_like(output))
    good = roi_align_pyramid([feature], rois[[0, 5]].cuda(), [0.25], 3, 2)
    (expected,) = torch.autograd.grad(good, feature, torch.ones_like(good))
    assert torch.equal(grad, expected)
    torch.cuda.synchronize()


@needs_gpu
def test_gpu_does_not_wait_for_the_device():
    maps = [m.cuda().requires_grad_() for m in pyramid(3, channels_last=True)]
    rois = boxes(20).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = roi_align_pyramid(maps, rois, SCALES, 7)
        torch.autograd.grad(output, maps, output.detach())
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_gpu_uses_the_current_stream():
    maps = [m.cuda() for m in pyramid(3)]
    rois = boxes(20).cuda()
    expected = roi_align_pyramid(maps, rois, SCALES, 7)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = roi_align_pyramid(maps, rois, SCALES, 7)
    for m in maps:
        m.mul_(2)
    graph.replay()
    torch.testing.assert_close(output, 2 * expected)


@needs_gpu
def test_gpu_axes_that_do_not_fit_into_shared_memory_are_an_error():
    long = torch.zeros(1, 1, 1, 1 << 20, device="cuda")
    with pytest.raises(RuntimeError, match="bytes of shared memory"):
        roi_align_pyramid([long], torch.zeros(1, 5, device="cuda"), [0.25], 7)
    # More than every device grants without asking.
    wide = torch.randn(1, 1, 4, 8000)
    rois = torch.tensor([[0.0, 0.0, 0.0, 31000.0, 16.0]])
    expected = roi_align_pyramid([wide], rois, [0.25], 7, 5)
    actual = roi_align_pyramid([wide.cuda()], rois.cuda(), [0.25], 7, 5)
    assert_close(actual.cpu(), expected, torch.float16)
