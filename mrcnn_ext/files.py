# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write files atomically; try folders before work begins, and lock them for one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import portalocker

from .errors import DataError

__all__ = ["LOCK", "check_writable", "drop_torn_line", "held_locks", "is_special"]
__all__ += [
    "only_process",
    "remove_leftovers",
    "replaced_file",
    "temporary_folder",
    "write_json",
    "write_text",
]

LOCK = ".lock"  # the file in a folder that one process holds
_PART = ".part"  # ends the names of temporary files
_ROOM = 1 << 20  # bytes that a folder must have room for before work begins
_TEMPORARY = ".temporary"  # the file that names a process's temporary folder
_OWN = "mrcnn_ext_"  # starts the names of temporary folders
_held: set[int] = set()


def check_writable(folder: str | os.PathLike) -> None:
    """Make ``folder`` if need be, and write 1 MiB to it for a moment.

    Raises:
        DataError: it cannot be made or written, or its disk is full; says which.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=str(folder), prefix=".", suffix=_PART) as file:
            file.write(bytes(_ROOM))
            file.flush()
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"nothing can be written to {folder}: {reason}.") from error


def is_special(path: str | os.PathLike) -> bool:
    """Whether a local path is a pipe, socket or device: reading from one may never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # there is none, or it is a URL
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Delete temporary files that killed processes left in ``folder``, which this one must hold."""
    for pattern in (f".*{_PART}", f".*{_PART}.mp4"):
        for file in Path(folder).glob(pattern):
            file.unlink(missing_ok=True)


@contextmanager
def only_process(folder: str | os.PathLike) -> Iterator[None]:
    """Lock ``folder``, which is made if need be, until the block or the process ends.

    A child that :func:`~mrcnn_ext.child_processes.start_child` starts meanwhile holds it, too: if
    this process is killed, the folder is locked until the child has ended.

    Raises:
        DataError: another process holds it, or it cannot be written.
    """
    folder = Path(folder)
    file = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(file)
        while lock is None:
            lock = _locked(file)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"nothing can be written to {folder}: {reason}.") from error
    handle = lock.fh.fileno()  # type: ignore[union-attr]
    _held.add(handle)
    try:
        yield
    finally:
        _held.discard(handle)
        with suppress(OSError):  # some systems delete no open file
            # The folder may have been deleted meanwhile, and another process hold a new one.
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                file.unlink()
        lock.release()


def held_locks() -> tuple[int, ...]:
    """Descriptors of the locks that this process has, for children to inherit."""
    return tuple(_held)


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
def temporary_folder(held: str | os.PathLike) -> Iterator[Path]:
    """A folder for temporary files of this process and its children, deleted when the block ends.

    One that a killed process left is deleted first. It is in the system's folder for temporary files:
    names of sockets, which workers put there, must be short.

    Args:
        held: a folder that this process has locked; a file in it names the temporary one.
    """
    note = Path(held) / _TEMPORARY
    with suppress(OSError, ValueError):
        _delete_temporary(note.read_text(encoding="utf-8"))
    folder = Path(tempfile.mkdtemp(prefix=_OWN))
    try:
        write_text(note, str(folder))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)


def _delete_temporary(name: str) -> None:
    """Delete a folder that :func:`temporary_folder` made; a note may have come from anywhere."""
    folder = Path(name)
    own = re.fullmatch(_OWN + r"\w{8}", folder.name) and str(folder.parent) == tempfile.gettempdir()
    if own and not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.getuid():
        shutil.rmtree(folder, ignore_errors=True)


def drop_torn_line(file: str | os.PathLike) -> None:
    """Cut off a last line without its end, which a killed process left: others would append to it."""
    try:
        with open(file, "rb+") as opened:
            end = opened.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - 65536)
                opened.seek(start)
                place = opened.read(end - start).rfind(b"\n")
                if place >= 0:
                    end = start + place + 1
                    break
                end = start
            opened.truncate(end)
    except FileNotFoundError:
        pass


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
        with suppress(FileNotFoundError):  # a signal came when it was in its place already
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
