# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Compile ``csrc/`` into the libraries ``_C_cpu.so`` and ``_C_cuda.so`` beside this file.

Installing the package does this. By hand, after a change or to build what an installation skipped:

    python mrcnn_ext/layers/build_kernels.py [--force] [--sanitize] [--out FOLDER] [--only cpu|cuda]

They are plain shared libraries on LibTorch's stable ABI, so one build serves every Python and every
torch from 2.10 on. Environment: ``MRCNN_EXT_BUILD=0`` builds nothing; ``CXX`` names the compiler;
``FORCE_CUDA=1`` makes a missing nvcc an error; ``CUDA_HOME`` is where to look for it;
``TORCH_CUDA_ARCH_LIST`` (for example "8.0;9.0+PTX") chooses the GPUs.

This file is run by setup.py and on its own: it imports nothing from the package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LAYERS = Path(__file__).resolve().parent
CSRC = LAYERS / "csrc"
MIN_TORCH = (2, 10)
DEFAULT_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"
# These repeat another library's roundings: sums and products stay as they are written.
EXACT_SOURCES = ("mask_*.cpp", "polygon_raster.cpp", "bitmask_crop.cpp")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]


class BuildError(RuntimeError):
    """A library cannot be built; the message says why and what to do."""


def _torch_paths() -> tuple[Path, Path]:
    """Folders of torch's headers and libraries.

    Raises:
        BuildError: no torch, or one without the stable ABI these sources use.
    """
    try:
        import torch
    except ImportError as error:
        raise BuildError(
            "torch cannot be imported in the build; install with pip's --no-build-isolation"
        ) from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < MIN_TORCH:
        raise BuildError(f"torch {torch.__version__} is older than 2.10")
    root = Path(torch.__file__).parent
    return root / "include", root / "lib"


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[:40])
        raise BuildError(f"{' '.join(command)}\n{tail}")


def _common_flags(include: Path) -> list[str]:
    # Nothing newer than 2.10 is used, so that older torches can load the result.
    target = (MIN_TORCH[0] << 56) | (MIN_TORCH[1] << 48)
    return ["-std=c++20", f"-DTORCH_TARGET_VERSION=0x{target:016x}", "-isystem", str(include)]


def _source_flags(source: Path) -> list[str]:
    exact = any(source.match(pattern) for pattern in EXACT_SOURCES)
    return ["-ffp-contract=off"] if exact else []


def _build(
    target: Path, sources: list[Path], compiler: str, flags: list[str], link: list[str]
) -> Path:
    """Compile and link in a temporary folder; ``target`` is there whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        objects = [f"{folder}/{source.name}.o" for source in sources]
        commands = [
            [compiler, *flags, *_source_flags(source), "-c", str(source), "-o", result]
            for source, result in zip(sources, objects)
        ]
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(_run, commands))
        partial = f"{folder}/{target.name}"
        _run([compiler, "-shared", "-o", partial, *objects, *link])
        shutil.move(partial, target)
    return target


def _link_flags(lib: Path, names: list[str]) -> list[str]:
    # torch is in the process already when the library is loaded, and its symbols with it.
    return [f"-L{lib}", "-Wl,--no-as-needed", *(f"-l{name}" for name in names)]


def build_cpu(out: Path, sanitize: bool = False) -> Path:
    """Build ``_C_cpu.so`` in ``out``; returns its path. Raises BuildError."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        raise BuildError("there is no C++ compiler (c++ or g++; CXX names another)")
    include, lib = _torch_paths()
    flags = [
        *_common_flags(include), "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast",
        "-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized",
        *(SANITIZE if sanitize else []),
    ]  # fmt: skip
    link = _link_flags(lib, ["torch", "torch_cpu", "c10"])
    extra = SANITIZE[:1] if sanitize else []
    sources = sorted((CSRC / "cpu").glob("*.cpp"))
    return _build(out / "_C_cpu.so", sources, compiler, flags, [*link, *extra])


def find_nvcc() -> str | None:
    """The CUDA compiler: of ``CUDA_HOME``, or the first on the path."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home and (Path(home) / "bin" / "nvcc").is_file():
        return str(Path(home) / "bin" / "nvcc")
    return shutil.which("nvcc")


def architecture_flags(text: str) -> list[str]:
    """nvcc's flags for a list such as "8.0;9.0+PTX"; "+PTX" adds code for later GPUs."""
    flags = []
    for item in text.replace(",", ";").replace(" ", ";").split(";"):
        if not item:
            continue
        number, _, suffix = item.partition("+")
        digits = number.replace(".", "")
        if not digits.rstrip("a").isdigit() or suffix not in ("", "PTX"):
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST: cannot read '{item}'; write '9.0' or '9.0+PTX'"
            )
        flags.append(f"-gencode=arch=compute_{digits},code=sm_{digits}")
        if suffix:
            flags.append(f"-gencode=arch=compute_{digits},code=compute_{digits}")
    return flags


def build_cuda(out: Path) -> Path:
    """Build ``_C_cuda.so`` in ``out``; returns its path. Raises BuildError."""
    nvcc = find_nvcc()
    if not nvcc:
        raise BuildError("there is no nvcc (CUDA_HOME names the toolkit)")
    include, lib = _torch_paths()
    names = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES
    flags = [
        *_common_flags(include), "-O3", "--threads=0", "-DUSE_CUDA",
        "-Xcompiler=-fPIC,-fvisibility=hidden", *architecture_flags(names),
    ]  # fmt: skip
    # A CPU build of torch has no torch_cuda, and compiling needs none: symbols come at load time.
    link = ["-Xlinker", "--no-as-needed", f"-L{lib}", "-ltorch", "-ltorch_cpu"]
    sources = sorted((CSRC / "cuda").glob("*.cu"))
    return _build(out / "_C_cuda.so", sources, nvcc, flags, link)


BUILDERS: dict[str, Callable[..., Path]] = {"cpu": build_cpu, "cuda": build_cuda}


def is_current(name: str, out: Path) -> bool:
    """Whether the library in ``out`` is newer than everything it is made of."""
    target = out / f"_C_{name}.so"
    sources = [p for p in CSRC.rglob("*.*") if p.parent.name in (name, "csrc")] + [Path(__file__)]
    return target.is_file() and target.stat().st_mtime >= max(p.stat().st_mtime for p in sources)


def build_all(out: Path = LAYERS, *, only: str | None = None, force: bool = False) -> list[Path]:
    """Build what this machine can build; say what it cannot, and go on.

    Returns:
        The libraries that are in ``out`` afterwards.

    Raises:
        BuildError: ``FORCE_CUDA=1`` is set and the CUDA library cannot be built.
    """
    if os.environ.get("MRCNN_EXT_BUILD") == "0":
        print("mrcnn_ext: MRCNN_EXT_BUILD=0, no kernels are built.", file=sys.stderr)
        return []
    out.mkdir(parents=True, exist_ok=True)
    built = []
    for name, builder in BUILDERS.items():
        if only not in (None, name):
            continue
        if not force and is_current(name, out):
            built.append(out / f"_C_{name}.so")
            continue
        try:
            built.append(builder(out))
            print(f"mrcnn_ext: built {built[-1]}", file=sys.stderr)
        except BuildError as error:
            if name == "cuda" and os.environ.get("FORCE_CUDA") == "1":
                raise
            print(
                f"mrcnn_ext: no compiled {name.upper()} kernels, torchvision's ops run instead: "
                f"{error}",
                file=sys.stderr,
            )
    return built


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the kernels of mrcnn_ext.")
    parser.add_argument("--out", type=Path, default=LAYERS, help="where the libraries go")
    parser.add_argument("--only", choices=sorted(BUILDERS))
    parser.add_argument("--force", action="store_true", help="build even if nothing changed")
    parser.add_argument(
        "--sanitize", action="store_true", help="CPU library with AddressSanitizer and UBSan"
    )
    args = parser.parse_args()
    try:
        if args.sanitize:
            args.out.mkdir(parents=True, exist_ok=True)
            print(build_cpu(args.out, sanitize=True))
        else:
            build_all(args.out, only=args.only, force=args.force)
    except BuildError as error:
        print(f"build_kernels: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
