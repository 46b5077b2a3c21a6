# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What the package's commands share: parsers, ``--import``, ``--trust-pickle``, progress bars."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .errors import ConfigError, DataError
from .stop_signals import StopSignals, exit_code

__all__ = ["TRUST_PICKLE", "add_import_option", "command_parser", "image_progress", "import_all"]
__all__ += [
    "add_output_option",
    "exit_code_of",
    "open_standard_files",
    "run_until_stopped",
    "say",
    "stage_progress",
]

TRUST_PICKLE = "load weights even if that runs code from their file (docs/security.md)"


def command_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of ``python -m MODULE``; its help shows the description with its line breaks."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def open_standard_files() -> None:
    """Where stdin, stdout or stderr are closed, open the null device in their place.

    The next file that is opened would get the number of a closed one, and what libraries print would
    go into that file.
    """
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def run_until_stopped(
    command: str,
    run: Callable[[StopSignals], int],
    *,
    errors: tuple[type[Exception], ...],
    ended: Callable[[KeyboardInterrupt], str] | None,
    failed: int = 1,
) -> int:
    """Run a command to its end, to an error of which one line says all, or to a signal.

    Args:
        command: its name in messages.
        run: does the work; returns the exit code.
        errors: exceptions whose messages say what is wrong.
        ended: what to print when a signal ended it; None: nothing.
        failed: the exit code of an error.

    Returns:
        the exit code: that of ``run``; ``failed``; 128 and the number of the signal.
    """
    with StopSignals() as signals:
        try:
            return run(signals)
        except errors as error:
            print(f"{command}: {error}", file=sys.stderr)
            return failed
        except OSError as error:  # the disk is full, say
            print(f"{command}: {type(error).__name__}: {error}", file=sys.stderr)
            return failed
        except KeyboardInterrupt as stop:
            if ended is not None:
                print(ended(stop), file=sys.stderr)
            return exit_code(stop)


def exit_code_of(command: str, run: Callable[[], int]) -> int:
    """Run a command that starts no processes, to its end or to an error of which one line says all.

    Args:
        command: its name in messages.
        run: does the work; returns the exit code.

    Returns:
        the exit code: that of ``run``; 2: unusable input or output; 128 and the number of the signal
        that ended it.
    """
    errors = (ConfigError, DataError)
    return run_until_stopped(command, lambda signals: run(), errors=errors, ended=None, failed=2)


def say(text: str, *, error: bool = False) -> None:
    """Print a line, to stderr if ``error``.

    Where nobody reads any more (``| head``), or the disk of a log is full, it is lost, and the work
    goes on.
    """
    file = sys.stderr if error else sys.stdout
    try:
        print(text, file=file, flush=True)
    except OSError:
        # Else Python would try again when it ends, and fail.
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, file.fileno())
            os.close(null)


def add_import_option(
    parser: argparse.ArgumentParser, what: str = "data sets", *, several: bool = False
) -> None:
    """Add ``--import MODULE``, which may be repeated; the names are for :func:`import_all`.

    Args:
        what: the modules register.
        several: ``--import A B`` is possible, too: only for a command without positional arguments.
    """
    parser.add_argument(
        "--import",
        dest="imports",
        action="extend",
        nargs="+" if several else 1,
        default=[],
        metavar="MODULE",
        help=f"a module or file.py that registers {what}; may be given again",
    )


def add_output_option(parser: argparse.ArgumentParser, name: str = "--output", **kwargs) -> None:
    """Add ``--output`` or ``--out``: each is taken for the other, the help shows ``name`` only.

    Args:
        name: the one that is documented.
        kwargs: as for ``add_argument``.
    """
    action = parser.add_argument(name, *{"--output", "--out"} - {name}, dest=name[2:], **kwargs)
    action.option_strings = [name]


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
        except (Exception, SystemExit) as error:  # whatever their code raises
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
