# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What the tests of the CUDA kernels share: the emulation, and what it is compared with."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import torch
from hypothesis import strategies as st

from mrcnn_ext.layers import build_kernels, roi_align_pyramid
from mrcnn_ext.layers.roi_align import ops as roi_align_ops
from tests.layers.test_roi_align import SCALES, assert_close, boxes, pyramid

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
ORDERS = {"ascending": 0, "descending": 1, "shuffled": 2}
CPU_FORWARD, CPU_BACKWARD = (
    kernel.on(torch.device("cpu"))
    for kernel in (roi_align_ops.ROI_ALIGN_FORWARD, roi_align_ops.ROI_ALIGN_BACKWARD)
)
_HERE = Path(__file__).parent

_coordinate = st.one_of(
    st.floats(-30, 150, width=32),
    st.integers(-2, 30).map(lambda i: 4.0 * i),
    st.sampled_from([float("nan"), float("inf"), 0.0, -500.0, 3000.0]),
)
any_roi = st.tuples(st.integers(-1, 2), _coordinate, _coordinate, _coordinate, _coordinate)


def compile_source(name: str, target: Path, *flags: str) -> Path:
    """Raises CalledProcessError."""
    include, _ = build_kernels._torch_paths()
    command = [COMPILER, *build_kernels._common_flags(include), "-O1", "-fvisibility=hidden"]
    subprocess.run([*command, str(_HERE / name), *flags, "-o", str(target)], check=True)
    return target


def load_emulation(folder: Path, library: str, *flags: str):
    """(forward, backward) as the CPU's kernels are; with ``order``, a key of ORDERS.

    They return the width of the vectors that were used.
    """
    _, lib = build_kernels._torch_paths()
    path = compile_source(
        "roi_align_cuda_emulation.cpp", folder / f"{library}.so", "-shared", "-fPIC",
        "-Wall", "-Wextra", f"-DEMULATION_LIBRARY={library}", *flags,
        *build_kernels._link_flags(lib, ["torch", "torch_cpu", "c10"]),
    )  # fmt: skip
    torch.ops.load_library(str(path))
    ops = getattr(torch.ops, library)

    def forward(*arguments, order="ascending"):
        return ops.forward(*arguments, ORDERS[order])

    def backward(*arguments, order="ascending"):
        return ops.backward(*arguments, ORDERS[order])

    return forward, backward


def geometry(rois, scales, ratio, *, levels=None, aligned=True):
    """The arguments in the middle of the kernels."""
    return rois, levels, scales, ratio, aligned, 32.0, 4


def filled(*shape, dtype=torch.float32, value=float("nan"), channels_last=True):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.full(shape, value, dtype=dtype).to(memory_format=layout)


def compare_with_the_cpu(emulation, maps, size, arguments, channels_last=True):
    """Both directions, with the threads in several orders: where that matters, they race.

    ``channels_last`` is the format of the gradient with respect to the output.
    """
    forward, backward = emulation
    rois, dtype = arguments[0], maps[0].dtype
    maps_last = roi_align_ops.is_channels_last(maps[0])
    shape = (len(rois), maps[0].shape[1], *size)
    expected = filled(*shape, dtype=dtype, channels_last=maps_last)
    CPU_FORWARD(maps, *arguments, expected)
    outputs = [filled(*shape, dtype=dtype, channels_last=maps_last) for _ in ORDERS]
    for order, output in zip(ORDERS, outputs):
        forward(maps, *arguments, output, order=order)
    bad = ~((rois[:, 0] >= 0) & (rois[:, 0] < maps[0].shape[0]))
    assert torch.isnan(outputs[0][bad]).all()
    assert_close(outputs[0][~bad], expected[~bad], dtype)
    assert all(torch.equal(outputs[0][~bad], other[~bad]) for other in outputs[1:])

    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    if channels_last:
        grad = grad.to(memory_format=torch.channels_last)
    expected_grads = [torch.empty_like(m) for m in maps]
    CPU_BACKWARD(grad, *arguments, expected_grads)
    results = [[torch.full_like(m, torch.nan) for m in maps] for _ in ORDERS]
    for order, result in zip(ORDERS, results):
        backward(grad, *arguments, result, order=order)
    for actual, other in zip(results[0], expected_grads):
        assert_close(actual, other, dtype)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result))


def tiny_boxes(size, inverted):
    """At the borders of pixels, where rounding might put samples of one bin behind the next's."""
    generator = torch.Generator().manual_seed(0)
    corner = 4 * torch.randint(0, 28, (60, 2), generator=generator).float() + 2
    corner = corner - size * torch.rand(60, 2, generator=generator)
    other = corner + (-size if inverted else size) * torch.rand(60, 2, generator=generator)
    return torch.cat([torch.zeros(60, 1), corner, other], 1)


def huge_boxes(extent):
    generator = torch.Generator().manual_seed(0)
    corners = (torch.rand(12, 4, generator=generator, dtype=torch.float64) * 2 - 1) * extent
    rois = torch.cat([torch.zeros(12, 1), corners.float()], 1)
    rois[:6, 1:3], rois[:6, 3:] = -rois[:6, 1:3].abs(), rois[:6, 3:].abs()
    return rois


def find_cuobjdump() -> str | None:
    """Of the toolkit, or the one that Triton brings along."""
    places = [Path(build_kernels.find_nvcc() or "nvcc").parent]
    spec = importlib.util.find_spec("triton")
    if spec and spec.origin:
        places.append(Path(spec.origin).parent / "backends" / "nvidia" / "bin")
    return shutil.which("cuobjdump", path=os.pathsep.join([*map(str, places), os.environ["PATH"]]))


def on_both_devices(dtype, channels_last, channels=70, size=(7, 5), ratio=2, **arguments):
    """(output, gradients) on the GPU and on the CPU, the latter in float64."""
    rois = boxes(300, size=(240, 320))
    features = pyramid(3, 2, channels, (60, 80), dtype, channels_last)
    results = []
    for device, compute in (("cuda", dtype), ("cpu", torch.float64)):
        maps = [m.to(device, compute).requires_grad_() for m in features]
        output = roi_align_pyramid(
            maps, rois.to(device), SCALES, size, ratio, canonical_box_size=64, **arguments
        )
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        grads = torch.autograd.grad(output, maps, weight.to(device, compute))
        results.append((output.detach().cpu(), [grad.cpu() for grad in grads]))
    return results
