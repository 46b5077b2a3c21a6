# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Loading of the compiled ops, and what is to be said about them.

The libraries are plain files beside this module (``_C_cpu.so``, ``_C_cuda.so``), loaded with
``torch.ops.load_library``; everything works without them, on torch and torchvision ops. Environment:
``MRCNN_EXT_KERNELS=0`` leaves them alone, ``MRCNN_EXT_CPU_CAPABILITY`` ("generic", "avx2", "avx512")
takes another instruction set than the best one, ``MRCNN_EXT_KERNEL_FOLDER`` takes the libraries from
another folder (a build with sanitizers, for example).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

__all__ = ["KERNEL_LIBRARIES", "KernelStatus", "has_kernels", "kernel_status"]

# Library name -> what runs in its place when it is not there.
KERNEL_LIBRARIES: dict[str, str] = {
    "_C_cpu": "torch and torchvision ops on the CPU",
    "_C_cuda": "torch and torchvision ops on the GPU",
}


@dataclass(frozen=True)
class KernelStatus:
    """Whether one compiled library is in use.

    Attributes:
        name: library name, a key of :data:`KERNEL_LIBRARIES`.
        loaded: its ops are registered in this process.
        reason: why not, or the file it came from (and, on the CPU, the instruction set in use).
        fallback: what runs without it.
    """

    name: str
    loaded: bool
    reason: str
    fallback: str


@cache
def kernel_status() -> tuple[KernelStatus, ...]:
    """Load the compiled libraries that are there, once, and report on each of them."""
    return tuple(_load(name, fallback) for name, fallback in KERNEL_LIBRARIES.items())


def has_kernels(name: str) -> bool:
    """Whether a library, "_C_cpu" or "_C_cuda", is loaded."""
    return any(status.name == name and status.loaded for status in kernel_status())


def _load(name: str, fallback: str) -> KernelStatus:
    if os.environ.get("MRCNN_EXT_KERNELS", "1") == "0":
        return KernelStatus(name, False, "switched off by MRCNN_EXT_KERNELS=0", fallback)
    folder = os.environ.get("MRCNN_EXT_KERNEL_FOLDER") or Path(__file__).parent
    path = Path(folder) / f"{name}.so"
    if not path.is_file():
        return KernelStatus(name, False, "not part of this build", fallback)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return KernelStatus(name, False, f"{path} cannot be loaded: {error}", fallback)
    where = str(path)
    if name == "_C_cpu":
        where += f" ({torch.ops.mrcnn_ext._cpu_capability()})"
    return KernelStatus(name, True, where, fallback)
