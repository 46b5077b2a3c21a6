#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Make the virtual environment of the README's commands, or find that it is up to date.

    python3 tools/bootstrap.py [--venv .venv] [--source DETECTRON2_CHECKOUT_OR_GIT_URL]

Needs nothing but Python's standard library. The environment carries a key made of everything it was
built from (pins, scripts, Python version, Detectron2 source); when the key changes, it is rebuilt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
MIN_PYTHON = (3, 11)  # what the pinned NumPy asks for; the package itself runs on 3.9
STAMP = "mrcnn_ext-environment.json"
_KEYED_FILES = ("requirements.txt", "pyproject.toml", "setup.py", "tools/build_detectron2.py")


class StepFailed(RuntimeError):
    """A step of the set-up failed; the message says what to do."""


def environment_key(venv: Path, source: str | None) -> str:
    """Hash of all that decides what is inside the environment."""
    digest = hashlib.sha256()
    for name in _KEYED_FILES:
        digest.update((REPO / name).read_bytes())
    digest.update(f"{sys.version} {venv} {REPO} {source or ''}".encode())
    return digest.hexdigest()


def is_current(venv: Path, key: str) -> bool:
    try:
        stamp = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return stamp.get("key") == key and (venv / "bin" / "python").exists()


def _step(number: int, total: int, what: str, command: list[str], advice: str) -> None:
    print(f"[{number}/{total}] {what} …", flush=True)
    start = time.monotonic()
    result = subprocess.run(command, cwd=REPO)
    if result.returncode:
        raise StepFailed(
            f"step {number} ({what}) failed with exit code {result.returncode}.\n"
            f"  command: {' '.join(command)}\n  {advice}"
        )
    print(f"      done in {time.monotonic() - start:.0f} s", flush=True)


def _check_machine(venv: Path) -> None:
    if sys.version_info < MIN_PYTHON:
        have, want = (".".join(map(str, v[:2])) for v in (sys.version_info, MIN_PYTHON))
        raise StepFailed(
            f"Python {have} is too old for the pinned environment, which needs {want} or newer: "
            f"make PYTHON=python{want} …"
        )
    parent = venv.parent if venv.parent.exists() else REPO
    free = shutil.disk_usage(parent).free / 2**30
    if free < 8:
        raise StepFailed(
            f"{free:.1f} GiB are free at {parent}, but the environment takes about 7 GiB (torch's "
            "CUDA libraries most of all): choose another place with VENV=/path make …"
        )


def build(venv: Path, key: str, source: str | None) -> None:
    """Build the environment from nothing.

    Raises:
        StepFailed: names the step and what to do.
    """
    _check_machine(venv)
    if venv.exists():
        if not (venv / "pyvenv.cfg").exists():
            raise StepFailed(f"{venv} exists and is no virtual environment: choose another VENV.")
        print(f"{venv} is out of date or incomplete: rebuilding it.", flush=True)
        _remove(venv)
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    network = "Check the network and pip's index settings (pip config list), then run it again."
    _step(
        1, 4, f"creating {venv}", [sys.executable, "-m", "venv", str(venv)],
        "On Debian and Ubuntu: apt install python3-venv.",
    )  # fmt: skip
    _step(
        2, 4, "installing requirements.txt (about 3 GB to download, some minutes)",
        [*pip, "--progress-bar", "on", "-r", "requirements.txt"], network,
    )  # fmt: skip
    wheels = venv / "wheels"
    _step(
        3, 4, f"building Detectron2 ({source or '0.6'})",
        [python, "tools/build_detectron2.py", "--out", str(wheels)]
        + (["--source", source] if source else []),
        network,
    )  # fmt: skip
    wheel = str(next(wheels.glob("detectron2-*.whl")))
    # One pip call: --no-deps for both, since requirements.txt pins all that they need.
    _step(
        4, 4, "installing Detectron2 and mrcnn_ext (compiles its kernels, up to a few minutes)",
        [*pip, "--no-deps", "--no-build-isolation", wheel, "--editable", "."],
        "The lines above say why; see CONTRIBUTING.md.",
    )  # fmt: skip
    (venv / STAMP).write_text(json.dumps({"key": key, "source": source or "0.6"}))


def _remove(venv: Path) -> None:
    """Delete it; what tells a virtual environment comes last: an interrupted call is repeated."""
    for path in venv.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "pyvenv.cfg":
            path.unlink()
    shutil.rmtree(venv)


def build_kernels(venv: Path) -> None:
    """Compile the kernels again if their sources changed; says so itself when it cannot."""
    python = str(venv / "bin" / "python")
    subprocess.run([python, "mrcnn_ext/layers/build_kernels.py"], cwd=REPO, check=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make or check the development environment.")
    parser.add_argument("--venv", type=Path, default=Path(os.environ.get("VENV") or ".venv"))
    parser.add_argument("--source", help="Detectron2 checkout or git URL instead of 0.6")
    args = parser.parse_args(argv)
    venv = args.venv if args.venv.is_absolute() else REPO / args.venv
    key = environment_key(venv, args.source)
    if is_current(venv, key):
        build_kernels(venv)
        return 0
    start = time.monotonic()
    try:
        build(venv, key, args.source)
    except StepFailed as error:
        print(f"\nbootstrap: {error}", file=sys.stderr)
        return 1
    print(f"Environment ready in {venv} after {time.monotonic() - start:.0f} s.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
