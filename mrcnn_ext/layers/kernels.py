# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Load the compiled ops, report their status, and choose between them and their fallbacks.

The libraries are plain files beside this module (``_C_cpu.so``, ``_C_cuda.so``), loaded with
``torch.ops.load_library``. Everything works without them, on torch and torchvision ops. Environment:

- ``MRCNN_EXT_KERNELS=0`` loads neither.
- ``MRCNN_EXT_CPU_CAPABILITY`` ("generic", "avx2", "avx512") overrides the instruction set, which
  otherwise is the best one of the processor.
- ``MRCNN_EXT_KERNEL_FOLDER`` loads the libraries from another folder, for example a build with
  sanitizers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

__all__ = [
    "KERNEL_LIBRARIES",
    "LIBRARY",
    "Kernel",
    "KernelStatus",
    "has_kernels",
    "kernel_status",
    "without_kernels",
]

# Schemas, fakes and gradients of all ops are registered here.
LIBRARY = torch.library.Library("mrcnn_ext", "FRAGMENT")
# Compiled library -> what runs without it.
KERNEL_LIBRARIES: dict[str, str] = {
    "_C_cpu": "torch and torchvision ops on the CPU",
    "_C_cuda": "torch and torchvision ops on the GPU",
}


@dataclass(frozen=True)
class KernelStatus:
    """Whether one compiled library is in use.

    Attributes:
        name: the library, a key of :data:`KERNEL_LIBRARIES`.
        loaded: whether its ops are registered in this process.
        reason: why it is not loaded; otherwise its file and, on the CPU, the instruction set in use.
        fallback: what runs without it.
    """

    name: str
    loaded: bool
    reason: str
    fallback: str


@cache
def kernel_status() -> tuple[KernelStatus, ...]:
    """Load the compiled libraries, once per process, and report the status of each."""
    return tuple(_load(name, fallback) for name, fallback in KERNEL_LIBRARIES.items())


def has_kernels(name: str) -> bool:
    """Whether the library ``name``, "_C_cpu" or "_C_cuda", is loaded."""
    return any(status.name == name and status.loaded for status in kernel_status())


class Kernel:
    """The implementations of one op: compiled ones on some devices, Python code on the others.

    Attributes:
        compiled: device type -> compiled op, of the devices whose library is loaded.
        fallback: runs everywhere else; takes the op's arguments.
    """

    def __init__(
        self, schema: str, fallback: Callable, devices: tuple[str, ...] = ("cpu",)
    ) -> None:
        """
        Args:
            schema: of the op, as ``torch.library`` takes it; it is defined in namespace mrcnn_ext.
            fallback: see above.
            devices: device types whose library implements the op.
        """
        op = getattr(torch.ops.mrcnn_ext, LIBRARY.define(schema))
        self.compiled: dict[str, Callable] = {d: op for d in devices if has_kernels(f"_C_{d}")}
        self.fallback = fallback
        _KERNELS.append(self)

    def on(self, device: torch.device) -> Callable:
        """The implementation for tensors on ``device``."""
        return self.compiled.get(device.type, self.fallback)


_KERNELS: list[Kernel] = []


@contextmanager
def without_kernels() -> Iterator[None]:
    """Run the fallbacks of all ops inside the block, in all threads: for comparisons in tests."""
    compiled = [kernel.compiled for kernel in _KERNELS]
    for kernel in _KERNELS:
        kernel.compiled = {}
    try:
        yield
    finally:
        for kernel, implementations in zip(_KERNELS, compiled):
            kernel.compiled = implementations


def _load(name: str, fallback: str) -> KernelStatus:
    if os.environ.get("MRCNN_EXT_KERNELS", "1") == "0":
        return KernelStatus(name, False, "switched off by MRCNN_EXT_KERNELS=0", fallback)
    folder = os.environ.get("MRCNN_EXT_KERNEL_FOLDER") or Path(__file__).parent
    path = Path(folder) / f"{name}.so"
    if not os.path.isfile(path):  # Path.is_file raises for names that are too long
        return KernelStatus(name, False, "not part of this build", fallback)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return KernelStatus(name, False, f"{path} cannot be loaded: {error}", fallback)
    where = str(path)
    if name == "_C_cpu":
        where += f" ({torch.ops.mrcnn_ext._cpu_capability()})"
    return KernelStatus(name, True, where, fallback)
