# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write files atomically; lock folders for one process."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import portalocker

from .errors import DataError

__all__ = ["only_process", "replaced_file", "write_json", "write_text"]


@contextmanager
def only_process(folder: str | os.PathLike) -> Iterator[None]:
    """Lock ``folder``, which is made if need be, until the block or the process ends.

    Raises:
        DataError: another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = portalocker.Lock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except portalocker.LockException as error:
        raise DataError(
            f"another process is at work in {folder}. Wait for it or end it, or choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replaced_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary file beside ``path``, which replaces it if the block ends without error.

    The folder is made if need be. Other processes see the old file or the new one, never a part.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner only
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
