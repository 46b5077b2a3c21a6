# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What the package's commands share: ``--import``, ``--trust-pickle`` and progress bars."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .errors import ConfigError

__all__ = ["TRUST_PICKLE", "image_progress", "import_all", "stage_progress"]

TRUST_PICKLE = "load weights even if that runs code from their file (docs/security.md)"


def import_all(names: Iterable[str]) -> None:
    """Import modules that register heads or data sets, and call their ``setup_environment`` if any.

    Args:
        names: dotted names, or paths of .py files.

    Raises:
        ConfigError: one cannot be imported.
    """
    if "." not in sys.path:
        sys.path.insert(0, ".")  # as ``python script.py`` would find a user's module
    for name in names:
        try:
            is_file = name.endswith(".py")
            module = _import_file(Path(name)) if is_file else importlib.import_module(name)
            getattr(module, "setup_environment", lambda: None)()
        except Exception as error:  # whatever their code raises
            raise ConfigError(f"--import {name}: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    name = path.stem
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def image_progress(console: Console) -> Progress:
    """Bars that count images. They vanish at the end, and need a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function ``progress(stage, done, total)`` that shows a bar for each stage on stderr."""
    with image_progress(Console(stderr=True)) as bars:
        tasks: dict = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield progress
