# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Old import paths, which work with a warning for one version. CHANGELOG.md lists them."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType

__all__ = ["MOVED_MODULES", "install_moved_modules", "moved_names"]

# Old module -> new module.
MOVED_MODULES: dict[str, str] = {
    "mrcnn_ext.config_check": "mrcnn_ext.config.check",
    "mrcnn_ext.config_reference": "mrcnn_ext.config.reference",
    "mrcnn_ext.fileio": "mrcnn_ext.files",
    "mrcnn_ext.prediction": "mrcnn_ext.predict",
    "mrcnn_ext.processes": "mrcnn_ext.job_runner",
    "mrcnn_ext.visualize": "mrcnn_ext.visualization",
    "mrcnn_ext.data.coco_check": "mrcnn_ext.data.check",
    "mrcnn_ext.data.pose_datasets": "mrcnn_ext.data.coco_datasets",
    "mrcnn_ext.evaluation.given_boxes": "mrcnn_ext.evaluation.at_true_boxes",
    "mrcnn_ext.evaluation.mask_quality": "mrcnn_ext.evaluation.tasks.mask_quality",
    "mrcnn_ext.evaluation.metrics": "mrcnn_ext.evaluation.tasks.ap",
    "mrcnn_ext.evaluation.pck": "mrcnn_ext.evaluation.tasks.pck",
    "mrcnn_ext.evaluation.tool_hooks": "mrcnn_ext.evaluation.build",
    "mrcnn_ext.evaluation.rle": "mrcnn_ext.coco.rle",
    "mrcnn_ext.evaluation.samples": "mrcnn_ext.coco.index",
    "mrcnn_ext.modeling.keypoint_codecs.rle": (
        "mrcnn_ext.modeling.keypoint_codecs.residual_likelihood"
    ),
    "mrcnn_ext.structures.skeletons": "mrcnn_ext.skeletons",
}


# ``python -m OLD`` is as ``python -m NEW``, also where NEW is a package with a __main__.
_RUN = "import runpy; runpy.run_module({!r}, run_name='__main__', alter_sys=True)"


def _warn(old: str, new: str, stacklevel: int) -> None:
    message = f"{old} moved to {new}; the old name goes in the next version."
    warnings.warn(message, FutureWarning, stacklevel=stacklevel)


def moved_names(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """A module's ``__getattr__`` for names that moved elsewhere.

    Args:
        module: the old module.
        names: name -> the module that has it now; with ":" and the new name if that changed.
    """

    def get(name: str):
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        new_module, _, new_name = names[name].partition(":")
        new_name = new_name or name
        _warn(f"{module}.{name}", f"{new_module}.{new_name}", stacklevel=3)
        return getattr(importlib.import_module(new_module), new_name)

    return get


class _MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds old modules by importing the new ones."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in MOVED_MODULES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec) -> ModuleType:
        new = MOVED_MODULES[spec.name]
        _warn(spec.name, new, stacklevel=3)  # importlib's own frames do not count
        return _Alias(spec.name, importlib.import_module(new))

    def exec_module(self, module: ModuleType) -> None:
        pass

    def get_code(self, fullname: str):
        """What ``python -m OLD_NAME`` runs."""
        new = MOVED_MODULES[fullname]
        _warn(fullname, new, stacklevel=2)
        return compile(_RUN.format(new), fullname, "exec")


class _Alias(ModuleType):
    """An old module. It is an object of its own, so that the new one keeps its name and spec."""

    def __init__(self, name: str, new: ModuleType) -> None:
        super().__init__(name, new.__doc__)
        self.__dict__["_new"] = new
        if hasattr(new, "__all__"):
            self.__dict__["__all__"] = new.__all__

    def __getattr__(self, name: str):
        return getattr(self.__dict__["_new"], name)


def install_moved_modules() -> None:
    """Make the old paths importable; calling it again changes nothing."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
