# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The wheel, its metadata, and what installing it does to an environment."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import mrcnn_ext
from mrcnn_ext import model_zoo
from mrcnn_ext.checkpoint import SHIPPED
from tests.helpers import REPO, run_python

pytestmark = pytest.mark.slow  # compiles the kernels once more


def _path_without(program: str) -> str:
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(f for f in folders if not os.path.exists(os.path.join(f, program)))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy without this folder's build products."""
    work = tmp_path_factory.mktemp("wheel")
    keep = ["mrcnn_ext", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
    keep += ["MANIFEST.in"]
    for name in keep:
        source = REPO / name
        if source.is_dir():
            shutil.copytree(
                source, work / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
            )
        else:
            shutil.copy(source, work / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    # CUDA's library takes minutes and has a test of its own.
    env = {"CUDA_HOME": "", "PATH": _path_without("nvcc")}
    result = run_python(
        ["-m", "pip", "wheel", *options, "-w", work / "out", work], env=env, cwd=work
    )
    assert result.returncode == 0, result.stderr
    return next((work / "out").glob("*.whl"))


def test_wheel_holds_code_and_configs_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for config in model_zoo.list_configs():
        assert f"mrcnn_ext/model_zoo/configs/{config}" in names
    assert "mrcnn_ext/model_zoo/configs/Base-MaskRCNN-FPN.yaml" in names
    for model in SHIPPED.values():
        assert f"mrcnn_ext/model_zoo/weights/{model.file.name}" in names
    for path in (REPO / "mrcnn_ext").rglob("*.py"):
        assert path.relative_to(REPO).as_posix() in names
    for path in (REPO / "mrcnn_ext").glob("*/template/*"):
        assert path.relative_to(REPO).as_posix() in names
    assert all(n.startswith(("mrcnn_ext/", "mrcnn_ext-")) for n in names)


def test_wheel_has_the_cpu_kernels_and_fits_every_python(wheel):
    if not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("no C++ compiler")
    assert "-py3-none-" in wheel.name
    assert "-any" not in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "mrcnn_ext/layers/_C_cpu.so" in names
    assert not [name for name in names if "csrc" in name]


def test_sdist_has_the_sources_of_the_kernels_and_the_configs(tmp_path):
    code = "import sys; from setuptools import build_meta as b; print(b.build_sdist(sys.argv[1]))"
    env = {"MRCNN_EXT_BUILD": "0"}
    result = run_python(["-W", "ignore", "-c", code, tmp_path], env=env, cwd=REPO)
    assert result.returncode == 0, result.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in [*(REPO / "mrcnn_ext/layers/csrc").rglob("*.*"), *(REPO / "configs").rglob("*.py")]:
        if "__pycache__" not in path.parts:
            assert path.relative_to(REPO).as_posix() in names
    assert {model.file.relative_to(REPO).as_posix() for model in SHIPPED.values()} <= names
    assert not [name for name in names if name.endswith(".so")]


def test_metadata_asks_for_neither_torch_nor_detectron2(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == mrcnn_ext.__version__
    assert metadata["Requires-Python"] == ">=3.9"
    required = {
        re.match(r"[\w-]+", line)[0]
        for line in metadata.get_all("Requires-Dist")
        if "extra ==" not in line
    }
    assert not required & {"torch", "torchvision", "detectron2", "timm"}
    assert {"fvcore", "iopath", "pycocotools", "opencv-python"} <= required


def test_installed_wheel_finds_its_configs_and_changes_nothing_else(wheel, tmp_path):
    """As pip does it: unpacked into a folder of its own, before everything else on the path."""
    target = tmp_path / "site"
    options = ["--no-deps", "--no-index", "--quiet", "--target", target]
    assert run_python(["-m", "pip", "install", *options, wheel]).returncode == 0
    installed = sorted(path.name for path in target.iterdir())
    assert [n for n in installed if not n.endswith(".dist-info")] == ["mrcnn_ext"]
    code = (
        "import mrcnn_ext, mrcnn_ext.model_zoo as zoo; print(mrcnn_ext.__file__);"
        "print(zoo.get_config_file('Shapes/mask_rcnn_Lite0_FPN.yaml'));"
        "print(zoo.get_config('COCO-InstanceSegmentation/mask_rcnn_Lite0_FPN_1x.py').train.max_iter)"
    )
    env = {"PYTHONPATH": os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])}
    result = run_python(["-W", "ignore", "-c", code], env=env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(str(target))
    assert lines[1].startswith(str(target))
    assert int(lines[2]) > 0


def test_install_without_detectron2_works_and_importing_says_how_to_get_it(wheel, tmp_path):
    """A bare environment: what ``pip install .`` gives somebody who has no Detectron2 yet."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet"]
    subprocess.run([*command, "--no-index", wheel], check=True)
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DETECTRON2_ENV_MODULE")}
    result = subprocess.run(
        [python, "-c", "import mrcnn_ext"], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert result.returncode == 0
    assert "torch is missing; install PyTorch first: pip install" in result.stderr.splitlines()[0]
