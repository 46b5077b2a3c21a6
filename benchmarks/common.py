# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: the machine, the spread of times, waiting for a GPU."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision

from mrcnn_ext.layers import kernel_status

__all__ = ["machine", "spread", "synchronize"]


def machine(**more) -> dict:
    """Processor, versions and the compiled kernels in use, for the json of a benchmark.

    Args:
        more: further entries.
    """
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
        name = models[0].split(":")[1].strip() if models else name
    kernels = {s.name: s.reason.rsplit("/", 1)[-1] for s in kernel_status()}
    return {
        "processor": name,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        **more,
        "kernels": kernels,
    }


def spread(seconds: Sequence[float]) -> dict:
    """Median and extremes of the times of several runs."""
    return {
        "median_ms": 1e3 * statistics.median(seconds),
        "min_ms": 1e3 * min(seconds),
        "max_ms": 1e3 * max(seconds),
        "runs": len(seconds),
    }


def synchronize(device: str) -> None:
    """Wait for the GPU if ``device`` is "cuda"."""
    if device == "cuda":
        torch.cuda.synchronize()
