#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Run the CUDA kernels of RoIAlign on small cases under NVIDIA's compute-sanitizer.

    python tools/sanitize_cuda.py [--tools memcheck racecheck initcheck synccheck] [--limit 150]

Needs a GPU, nvcc and compute-sanitizer (both are in the CUDA toolkit), and the compiled library. For
each tool a kernel with a planted fault comes first (gpu_faults.cu): a tool that does not report it says
nothing about ours. Only kernels of this package are looked at; each tensor is an allocation of its own,
so that a step beyond it is out of range. The tools run side by side. Ends with 1 at a finding.
"""

from __future__ import annotations

import argparse
import itertools
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
FAULTS = Path(__file__).resolve().parent / "gpu_faults.cu"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FOUND = 86  # exit code for findings, which no program here ends with by itself
OUR_KERNELS = "kernel_substring=mrcnn_ext"


class CannotSanitize(RuntimeError):
    """Something that is needed is not there; the message says what."""


def find_nvcc() -> str | None:
    """As build_kernels.py finds it, which is no module to import from here."""
    return runpy.run_path(str(REPO / "mrcnn_ext/layers/build_kernels.py"))["find_nvcc"]()


def find_sanitizer() -> str | None:
    """compute-sanitizer of the toolkit with nvcc, or the first on the path."""
    nvcc = find_nvcc()
    beside = [str(Path(nvcc).resolve().parent), str(Path(nvcc).parent)] if nvcc else []
    places = [*beside, "/usr/local/cuda/bin", os.environ.get("PATH", "")]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def command(sanitizer: str, tool: str, program: list[str]) -> list[str]:
    """``program`` under a tool; ends with FOUND if the tool reports anything."""
    options = ["--tool", tool, "--error-exitcode", str(FOUND), "--kernel-name", OUR_KERNELS]
    options += ["--print-limit", "5", "--launch-timeout", "60"]
    # A port of its own each, since they run side by side.
    options += ["--port", str(49152 + 100 * TOOLS.index(tool))]
    if tool == "memcheck":
        # torch asks for things that need not succeed.
        options += ["--report-api-errors", "no"]
    return [sanitizer, *options, *program]


def run(arguments: list[str], limit: float) -> tuple[int, str]:
    """Exit code (124 if it took too long) and output."""
    env = {
        **os.environ,
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
        "CUDA_MODULE_LOADING": "LAZY",
        "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]),
    }
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=REPO,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=max(limit, 1))
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # the program as well as the tool
        output, _ = process.communicate()
        return 124, output


def check(sanitizer: str, tool: str, faults: Path, limit: float) -> tuple[bool, str]:
    """Whether a tool sees the planted fault and nothing in our kernels, and a line to read."""
    start = time.monotonic()
    code, output = run(command(sanitizer, tool, [str(faults), tool]), min(limit, 60))
    if code != FOUND:
        return False, f"{tool}: does not see the planted fault (exit code {code})\n{output[-1500:]}"
    cases = [sys.executable, "-W", "ignore", __file__, "--in-process", tool]
    code, output = run(command(sanitizer, tool, cases), limit - (time.monotonic() - start))
    seconds = time.monotonic() - start
    if code == FOUND:
        return False, f"{tool}: findings after {seconds:.0f} s\n{output[-6000:]}"
    if code == 124:
        return False, f"{tool}: not done after {seconds:.0f} s\n{output[-1500:]}"
    if code or "cases without a difference" not in output:
        return False, f"{tool}: the cases failed with {code}\n{output[-3000:]}"
    line = next(x for x in output.splitlines() if "cases without a difference" in x)
    return True, f"{tool}: sees the planted fault; {line}, no findings ({seconds:.0f} s)"


# ---- The cases, in a process under the tool ----------------------------------------------------------


def run_cases(tool: str) -> None:
    """Forward and backward of small cases on the GPU, compared with the CPU's kernels.

    Tensors are made on the CPU and copied, channels last: for initcheck, which knows of copies and of
    the kernels that it watches, torch's own kernels would write nothing.
    """
    import torch

    from mrcnn_ext.layers import kernel_status

    loaded = {status.name: status for status in kernel_status()}["_C_cuda"]
    assert loaded.loaded, loaded.reason
    count = 0
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    # Channels: vectors and single ones, one block of channels and two.
    for dtype, channels in itertools.product(dtypes, (8, 3, 132)):
        for rois, size, ratio in (
            ("usual", (7, 7), 0),
            ("odd", (3, 14), 2),
            ("many", (2, 2), 0),  # more than a block has threads
            ("few", (9, 130), 1),  # more bins than a block has threads, with (9, 130)
        ):
            if rois == "few" and channels == 132:
                continue
            run_case(dtype, channels, make_rois(rois), size, ratio)
            count += 1
    torch.cuda.synchronize()
    print(f"{count} cases without a difference", flush=True)


def make_rois(kind: str):
    import torch

    generator = torch.Generator().manual_seed(0)
    count = {"usual": 12, "odd": 12, "many": 300, "few": 2}[kind]
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([130.0, 100.0]) - 8
    if kind != "odd":
        corners = torch.stack([corners.amin(1), corners.amax(1)], 1)
    image = torch.randint(0, 2, (count, 1), generator=generator).float()
    rois = torch.cat([image, corners.flatten(1)], 1)
    if kind == "odd":  # inverted ones are among them already
        rois[1, 0], rois[2, 0] = 2, -1
        rois[3, 1], rois[4, 3] = torch.nan, torch.inf
        rois[5, 1:] = torch.tensor([-3e4, -3e4, 5e4, 4e4])
        rois[6, 3:] = rois[6, 1:3]
    return rois


def run_case(dtype, channels: int, rois, size: tuple[int, int], ratio: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(1)
    scales = [1 / 4, 1 / 8, 1 / 16]

    def tensor(*shape: int):
        values = torch.randn(shape, generator=generator).to(dtype)
        return values.to(memory_format=torch.channels_last)

    maps = [tensor(2, channels, 20 >> level, 28 >> level) for level in range(3)]
    rois = rois.double() if dtype == torch.float64 else rois
    grad = tensor(len(rois), channels, *size)
    shape = [2, [m.shape[2] for m in maps], [m.shape[3] for m in maps], True]
    geometry = (ratio, True, 32.0, 4)
    ops = torch.ops.mrcnn_ext
    results = []
    for device in ("cuda", "cpu"):
        there = rois.to(device)
        if device == "cpu":  # where a batch index out of range is an error, and on CUDA NaN
            there[(there[:, 0] < 0) | (there[:, 0] > 1), 1:] = torch.nan
            there[:, 0].clamp_(0, 1)
        output = ops.roi_align_pyramid(
            [m.to(device) for m in maps], there, None, scales, list(size), *geometry
        )
        grads = ops.roi_align_pyramid_backward(
            grad.to(device), there, None, scales, *shape, *geometry
        )
        results.append([output.cpu(), *[g.cpu() for g in grads]])
    wrong = (rois[:, 0] < 0) | (rois[:, 0] > 1)
    assert bool(torch.isnan(results[0][0][wrong]).all())
    results[0][0][wrong] = 0
    for ours, expected in zip(*results):
        tolerance = 2e-2 if dtype == torch.bfloat16 else 4e-3
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


# ---- All tools ---------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--limit", type=float, default=150, help="seconds for all of it")
    parser.add_argument("--in-process", choices=TOOLS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        run_cases(args.in_process)
        return 0
    end = time.monotonic() + args.limit
    try:
        sanitizer, nvcc = find_sanitizer(), find_nvcc()
        if not sanitizer or not nvcc:
            raise CannotSanitize(
                f"there is no {'nvcc' if sanitizer else 'compute-sanitizer'}; both are in the CUDA "
                "toolkit (CUDA_HOME says where)"
            )
        with tempfile.TemporaryDirectory() as folder:
            faults = Path(folder) / "gpu_faults"
            # "native" asks the driver, which is not possible everywhere.
            for architecture in ("native", "all-major"):
                build = [nvcc, f"-arch={architecture}", str(FAULTS), "-o", str(faults)]
                code, output = run(build, 60)
                if code == 0:
                    break
            else:
                raise CannotSanitize(f"{FAULTS.name} cannot be built: {output[-1500:]}")
            with ThreadPoolExecutor() as pool:
                left = end - time.monotonic()
                checks = [pool.submit(check, sanitizer, t, faults, left) for t in args.tools]
                results = []
                for future in checks:
                    results.append(future.result())
                    print(results[-1][1], flush=True)
    except CannotSanitize as error:
        print(f"sanitize_cuda: {error}", file=sys.stderr)
        return 1
    return 0 if all(good for good, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
