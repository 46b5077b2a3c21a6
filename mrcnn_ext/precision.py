# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Which half-precision types a processor or GPU computes with in hardware.

Elsewhere torch emulates them: the same numbers, a hundred times slower.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from .errors import ConfigError

__all__ = ["DTYPES", "compute_dtype", "why_not"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Any of these flags of /proc/cpuinfo will do; "bf16" and "asimdhp" are Arm's.
_CPU_FLAGS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "asimdhp"),
}
_CPU_NAMES = {
    torch.bfloat16: "AVX512-BF16 or AMX-BF16 (on Arm: BF16)",
    torch.float16: "AVX512-FP16 or AMX-FP16 (on Arm: FP16)",
}
# Compute capability from which a GPU has the type.
_GPUS = {torch.bfloat16: (8, 0), torch.float16: (5, 3)}


def compute_dtype(
    name: str, device: torch.device | str, setting: str, more: Sequence[str] = ()
) -> torch.dtype:
    """The dtype called ``name`` if ``device`` computes with it in hardware.

    Args:
        name: "float32", "bfloat16" or "float16".
        device: where it is to be used.
        setting: what a message calls the argument or key that ``name`` comes from.
        more: other values that the caller takes, for the message.

    Raises:
        ConfigError: an unknown name, or hardware that lacks the type; says what is missing.
    """
    if name not in DTYPES:
        raise ConfigError(f"{setting} is {name!r}; expected one of {[*more, *DTYPES]}.")
    missing = why_not(DTYPES[name], torch.device(device))
    if missing:
        raise ConfigError(
            f"{setting} is '{name}', but {missing}. Emulated it would be a hundred times slower than "
            "float32; use 'float32' here."
        )
    return DTYPES[name]


def why_not(dtype: torch.dtype, device: torch.device) -> str:
    """What ``device`` lacks to compute with ``dtype`` in hardware; "" if nothing."""
    if dtype == torch.float32:
        return ""
    short = str(dtype).replace("torch.", "")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "PyTorch finds no CUDA device here"
        found, needed = torch.cuda.get_device_capability(device), _GPUS[dtype]
        if found >= needed:
            return ""
        return (
            f"{torch.cuda.get_device_name(device)} has compute capability {found[0]}.{found[1]} and no "
            f"{short} arithmetic: it needs {needed[0]}.{needed[1]} or more"
        )
    if device.type != "cpu":
        return f"this package does not know whether device '{device}' has {short} arithmetic"
    name, flags = _processor()
    if not flags.intersection(_CPU_FLAGS[dtype]):
        return f"the processor ({name}) has no {short} arithmetic: it lacks {_CPU_NAMES[dtype]}"
    # torch's own answer, which only tells whether its library accepts the type at all
    check = "_is_mkldnn_bf16_supported" if dtype == torch.bfloat16 else "_is_mkldnn_fp16_supported"
    if hasattr(torch.ops.mkldnn, check) and not getattr(torch.ops.mkldnn, check)():
        return f"this build of PyTorch ({torch.__version__}) has no {short} convolutions on the CPU"
    return ""


@cache
def _processor() -> tuple[str, frozenset[str]]:
    """Name and flags of the processor; no flags where the system does not list them."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                return name, frozenset(value.split())
    return name, flags
