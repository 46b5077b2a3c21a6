# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write files atomically; try folders before work begins, and lock them for one process."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import portalocker

from .errors import DataError

__all__ = ["check_writable", "only_process", "remove_leftovers", "replaced_file", "write_json"]
__all__ += ["write_text"]

_PART = ".part"  # ends the names of temporary files
_ROOM = 1 << 20  # bytes that a folder must have room for before work begins


def check_writable(folder: str | os.PathLike) -> None:
    """Make ``folder`` if need be, and write 1 MiB to it for a moment.

    Raises:
        DataError: it cannot be made or written, or its disk is full; says which.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=str(folder), suffix=_PART) as file:
            file.write(bytes(_ROOM))
            file.flush()
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"nothing can be written to {folder}: {reason}.") from error


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Delete temporary files that killed processes left in ``folder``, which this one must hold."""
    for file in Path(folder).glob(f".*{_PART}"):
        file.unlink()


@contextmanager
def only_process(folder: str | os.PathLike) -> Iterator[None]:
    """Lock ``folder``, which is made if need be, until the block or the process ends.

    Raises:
        DataError: another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".lock"
    lock = _locked(file)
    while lock is None:
        lock = _locked(file)
    try:
        yield
    finally:
        with suppress(OSError):  # some systems delete no open file
            file.unlink()
        lock.release()


def _locked(file: Path) -> portalocker.Lock | None:
    """A lock; None if its file was deleted meanwhile, by the process that held it before."""
    lock = portalocker.Lock(file, timeout=0)
    try:
        handle = lock.acquire()
    except portalocker.LockException as error:
        raise DataError(
            f"another process is at work in {file.parent}. Wait for it or end it, or choose another "
            "folder."
        ) from error
    try:
        if os.path.samestat(os.fstat(handle.fileno()), os.stat(file)):
            return lock
    except FileNotFoundError:
        pass
    lock.release()
    return None


@contextmanager
def replaced_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary file beside ``path``, which replaces it if the block ends without error.

    The folder is made if need be. Other processes see the old file or the new one, never a part.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of a long name the beginning: that of the temporary file must not be longer.
    handle, temporary = tempfile.mkstemp(_PART, f".{path.name[:40]}.", path.parent)
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner only
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # else a power failure may leave an empty file in its place
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` to ``path`` by :func:`replaced_file`.

    Raises:
        OSError: the file cannot be written.
    """
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content, indent: int | None = 1) -> None:
    """Write ``content`` to ``path`` by :func:`replaced_file`.

    Raises:
        OSError: the file cannot be written.
    """
    with replaced_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=indent)
        file.write("\n")
