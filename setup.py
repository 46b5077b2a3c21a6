# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: configs and compiled kernels inside the wheel."""

import os
import runpy
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70
    from wheel.bdist_wheel import bdist_wheel

HERE = Path(__file__).parent


class BuildWithConfigsAndKernels(build_py):
    """Copy ``configs/`` to where the model zoo functions look, and compile ``csrc/``.

    An editable install needs no copy: there the functions find the checkout's own folder, and the
    libraries are built in it.
    """

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            build_kernels(HERE / "mrcnn_ext" / "layers")
            return
        package = Path(self.build_lib) / "mrcnn_ext"
        target = package / "model_zoo" / "configs"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(HERE / "configs", target, ignore=shutil.ignore_patterns("__pycache__"))
        build_kernels(package / "layers")

    def get_outputs(self, include_bytecode=1):
        package = Path(self.build_lib) / "mrcnn_ext"
        files = [
            str(package / "model_zoo" / path.relative_to(HERE))
            for path in (HERE / "configs").rglob("*.*")
            if path.suffix in (".py", ".yaml")
        ]
        kernels = [str(path) for path in (package / "layers").glob("_C_*.so")]
        return super().get_outputs(include_bytecode) + files + kernels


def build_kernels(folder):
    """Compile what this machine can compile; the package works without, on torchvision's ops."""
    runpy.run_path(str(HERE / "mrcnn_ext" / "layers" / "build_kernels.py"))["build_all"](folder)


class WithKernels(Distribution):
    """Says that there is compiled code, so that setuptools makes a wheel for this platform."""

    def has_ext_modules(self):
        return os.environ.get("MRCNN_EXT_BUILD") != "0"


class WheelForEveryPython(bdist_wheel):
    """The kernels are no Python extensions: a wheel depends on the platform, not on the Python."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    distclass=WithKernels,
    cmdclass={"build_py": BuildWithConfigsAndKernels, "bdist_wheel": WheelForEveryPython},
)
