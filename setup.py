# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: configs inside the wheel, and the seam for compiled kernels."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Copy ``configs/`` to ``mrcnn_ext/model_zoo/configs``, where the model zoo functions look.

    An editable install needs no copy: there the functions find the checkout's own folder.
    """

    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):
            target = Path(self.build_lib) / "mrcnn_ext" / "model_zoo" / "configs"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(HERE / "configs", target, ignore=shutil.ignore_patterns("__pycache__"))

    def get_outputs(self, include_bytecode=1):
        zoo = Path(self.build_lib) / "mrcnn_ext" / "model_zoo"
        configs = [
            str(zoo / path.relative_to(HERE))
            for path in (HERE / "configs").rglob("*.*")
            if path.suffix in (".py", ".yaml")
        ]
        return super().get_outputs(include_bytecode) + configs


def kernel_extensions():
    """Compiled libraries to build; none as long as ``mrcnn_ext/layers/csrc`` has no sources.

    They are to be plain libraries beside ``mrcnn_ext/layers/kernels.py``, not Python extension
    modules, so that one build serves every Python and many torch versions.
    """
    return []


setup(cmdclass={"build_py": BuildWithConfigs}, ext_modules=kernel_extensions())
