#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Build an installable, pure-Python Detectron2 wheel.

Detectron2 is not published under its own name on the Python package index, its 0.6 release
predates NumPy 2 and Pillow 10, and building its C++ ops takes minutes and a matching compiler.
mrcnn_ext needs none of those ops, so this script makes a wheel without them:

    python tools/build_detectron2.py --out build/wheels                       # 0.6, pinned archive
    python tools/build_detectron2.py --source /path/to/detectron2 --out ...   # a checkout
    python tools/build_detectron2.py --source https://…/detectron2.git --out ...

Only the compatibility fixes in ``FIXES`` are applied; every changed line is written to
``share/detectron2/compat.patch`` inside the wheel, next to Detectron2's own ``tools/``. Run it with
the Python that will use the wheel: torch and setuptools must be installed there.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ARCHIVE_REQUIREMENT = "pb1-detectron2==0.6"
ARCHIVE_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"


class BuildError(RuntimeError):
    """The wheel cannot be built; the message says what to do."""


@dataclass(frozen=True)
class Fix:
    """Replace ``pattern`` by ``replacement`` in the files that match ``glob``."""

    why: str
    glob: str
    pattern: str
    replacement: str


_GUARDED_C = (
    "try:\n    from detectron2 import _C\n"
    "except ImportError:  # built without the compiled ops\n    _C = None\n"
)
_C_IMPORT = r"(?m)^from detectron2 import _C\n"

FIXES: tuple[Fix, ...] = (
    *(
        Fix("compiled ops are optional", f"detectron2/layers/{name}.py", _C_IMPORT, _GUARDED_C)
        for name in ("rotated_boxes", "deform_conv", "roi_align_rotated")
    ),
    # Without its compiled part the "fast" evaluator must be pycocotools' own, as on main.
    Fix(
        "compiled COCOeval is optional",
        "detectron2/evaluation/fast_eval_api.py",
        r"(?s)^(.*?\n)from detectron2 import _C\n(.*)$",
        r"\g<1>" + _GUARDED_C.replace("\\", r"\\") + r"\g<2>"
        "\n\nif _C is None:\n    COCOeval_opt = COCOeval  # noqa: F811\n",
    ),
    Fix("Pillow >= 10", "detectron2/data/transforms/*.py", r"\bImage\.LINEAR\b", "Image.BILINEAR"),
    Fix("NumPy >= 1.24", "**/*.py", r"\bnp\.(bool|int|float|object|str)\b(?!_)", r"\1"),
    Fix(
        "setuptools >= 81",
        "detectron2/model_zoo/model_zoo.py",
        r"(?m)^import pkg_resources\n",
        "import importlib.resources\n",
    ),
    Fix(
        "setuptools >= 81",
        "detectron2/model_zoo/model_zoo.py",
        r"pkg_resources\.resource_filename\(\s*"
        r'"detectron2\.model_zoo", os\.path\.join\("configs", config_path\)\s*\)',
        'str(\n        importlib.resources.files("detectron2.model_zoo").joinpath("configs", '
        "config_path)\n    )",
    ),
    Fix(
        "caffe2 is optional",
        "detectron2/export/__init__.py",
        r"(?m)^from \.api import \*\n",
        "try:\n    from .api import *\n"
        "except ImportError:  # caffe2 is gone from current PyTorch\n    pass\n",
    ),
)
# On 0.6 every fix but the last-resort ones must apply: a silent miss would surface far from here.
_FIXES_EXPECTED_ON_0_6 = len(FIXES)

PROJECTS = {
    "detectron2.projects.point_rend": "projects/PointRend/point_rend",
    "detectron2.projects.deeplab": "projects/DeepLab/deeplab",
    "detectron2.projects.panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}

_SETUP_PY = """\
from pathlib import Path
from setuptools import find_packages, setup

projects = {projects!r}
tools = {{}}
for path in sorted(Path("tools").rglob("*")):
    if path.is_file() and "__pycache__" not in path.parts:
        tools.setdefault("share/detectron2/" + path.parent.as_posix(), []).append(path.as_posix())
tools["share/detectron2"] = ["compat.patch", "LICENSE"]
zoo = Path("detectron2/model_zoo")
setup(
    name="detectron2",
    version={version!r},
    description="Detectron2 without its compiled ops, as built by mrcnn_ext's build_detectron2.py",
    url="https://github.com/facebookresearch/detectron2",
    license="Apache-2.0",
    packages=find_packages(include=["detectron2", "detectron2.*"]) + list(projects),
    package_dir=projects,
    package_data={{
        "detectron2.model_zoo": [
            p.relative_to(zoo).as_posix()
            for p in (zoo / "configs").rglob("*")
            if p.suffix in (".py", ".yaml")
        ]
    }},
    data_files=list(tools.items()),
    python_requires=">=3.9",
)
"""


def _run(command: list[str], failure: str) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-15:])
        raise BuildError(f"{failure}\n  command: {' '.join(command)}\n{tail}")


def _download_archive(folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{ARCHIVE_REQUIREMENT} --hash=sha256:{ARCHIVE_SHA256}\n")
    # pip checks the hash before it runs anything of the archive's setup.py (which needs torch).
    _run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        + ["--no-build-isolation", "--require-hashes", "-r", str(requirement), "-d", str(folder)],
        f"Could not download {ARCHIVE_REQUIREMENT}: check the network and pip's index settings, or "
        "pass --archive FILE.",
    )
    return next(folder.glob("pb1*detectron2-0.6.tar.gz"))


def _unpack_archive(archive: Path, target: Path) -> None:
    try:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise BuildError(f"--archive {archive}: {error.strerror}.") from error
    if digest != ARCHIVE_SHA256:
        raise BuildError(f"{archive}: sha256 is {digest}, expected {ARCHIVE_SHA256}.")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(target.parent, filter="data")
        else:  # the content is pinned by its hash
            tar.extractall(target.parent)
    (target.parent / "pb1-detectron2-0.6").rename(target)


def _copy_source(source: str, target: Path) -> str:
    """Copy or clone a Detectron2 checkout to ``target``; return its commit ("" if unknown)."""
    path = Path(source).expanduser()
    if (path / "detectron2" / "__init__.py").is_file():
        ignore = shutil.ignore_patterns(".git", "build", "dist", "__pycache__", "*.so")
        shutil.copytree(path, target, ignore=ignore, symlinks=False)
        repo = path
    else:
        depth = [] if path.exists() else ["--depth", "1"]
        _run(
            [
                "git",
                "clone",
                "--quiet",
                *depth,
                str(path) if path.exists() else source,
                str(target),
            ],
            f"--source {source}: neither a folder with detectron2/__init__.py nor a git repository "
            "that can be cloned.",
        )
        repo = target
    if not (target / "detectron2" / "__init__.py").is_file():
        raise BuildError(f"--source {source}: no detectron2/__init__.py inside.")
    commit = subprocess.run(
        ["git", "-C", str(repo), "rev-parse", "--short=8", "HEAD"], capture_output=True, text=True
    )
    return commit.stdout.strip() if commit.returncode == 0 else ""


def _place_configs(tree: Path) -> None:
    """Put the zoo's configs where ``detectron2.model_zoo`` looks (a checkout has them apart)."""
    target = tree / "detectron2" / "model_zoo" / "configs"
    if (tree / "configs").is_dir():
        if target.is_symlink() or target.is_file():
            target.unlink()
        elif target.is_dir():
            shutil.rmtree(target)
        shutil.copytree(tree / "configs", target)


def apply_fixes(tree: Path) -> tuple[str, int]:
    """Apply ``FIXES`` below ``tree``; return the unified diff and how many of them changed a file."""
    before: dict[Path, str] = {}
    after: dict[Path, str] = {}
    applied = 0
    for fix in FIXES:
        changed = False
        for path in sorted(tree.glob(fix.glob)):
            if "configs" in path.parts or not path.is_file():
                continue
            text = after.get(path) or path.read_text(encoding="utf-8")
            # A guard that is already there (main has some) shows by its indentation: not matched.
            new = re.sub(fix.pattern, fix.replacement, text)
            if new != text:
                before.setdefault(path, text)
                after[path] = new
                changed = True
        applied += changed
    lines: list[str] = []
    for path in sorted(after):
        path.write_text(after[path], encoding="utf-8")
        name = path.relative_to(tree).as_posix()
        lines += difflib.unified_diff(
            before[path].splitlines(True), after[path].splitlines(True), f"a/{name}", f"b/{name}"
        )
    return "".join(lines), applied


def _version(tree: Path, commit: str) -> str:
    text = (tree / "detectron2" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'(?m)^__version__ = "([^"]+)"', text)
    if match is None:
        raise BuildError("detectron2/__init__.py has no __version__ line.")
    return f"{match.group(1)}+git{commit}" if commit else match.group(1)


def build(out: Path, source: str | None = None, archive: Path | None = None) -> Path:
    """Build the wheel into ``out`` and return its path.

    Args:
        out: folder for the wheel, made if it is missing.
        source: a Detectron2 checkout or git URL; default is the pinned 0.6 archive.
        archive: an already downloaded copy of that archive.

    Raises:
        BuildError: a download, a clone, a checksum or a fix failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build_detectron2_") as folder:
        tree = Path(folder) / "detectron2-source"
        commit = ""
        if source is not None:
            commit = _copy_source(source, tree)
        else:
            _unpack_archive(archive or _download_archive(Path(folder)), tree)
        _place_configs(tree)
        patch, applied = apply_fixes(tree)
        if source is None and applied != _FIXES_EXPECTED_ON_0_6:
            raise BuildError(
                f"only {applied} of {_FIXES_EXPECTED_ON_0_6} compatibility fixes matched."
            )
        (tree / "compat.patch").write_text(patch, encoding="utf-8")
        (tree / "setup.py").write_text(
            _SETUP_PY.format(projects=PROJECTS, version=_version(tree, commit)), encoding="utf-8"
        )
        for name in ("setup.cfg", "pyproject.toml"):  # they would override the metadata above
            (tree / name).unlink(missing_ok=True)
        wheels = Path(folder) / "wheels"
        _run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
            + ["-w", str(wheels), str(tree)],
            "Could not build the wheel: setuptools must be installed in this environment.",
        )
        built = next(wheels.glob("detectron2-*.whl"))
        return Path(shutil.copy2(built, out / built.name))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Build a pure-Python Detectron2 wheel.",
        epilog="The wheel holds Detectron2's tools in share/detectron2/tools.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/wheels"), help="folder of the wheel"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--source", help="Detectron2 checkout (folder) or git URL; default: 0.6")
    where.add_argument(
        "--archive", type=Path, help=f"local copy of the {ARCHIVE_REQUIREMENT} sdist"
    )
    args = parser.parse_args(argv)
    try:
        print(build(args.out, args.source, args.archive))
    except BuildError as error:
        print(f"build_detectron2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
