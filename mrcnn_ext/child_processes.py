# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Processes that end with the one that started them, whatever ends that one.

Each gets a process group of its own, so that its workers (of a data loader, say) end with it, and a
pipe as stdin, whose other end the parent has: the pipe closes when the parent is gone, even if it
was killed. A child that calls :func:`end_with_parent`, as ``mrcnn_ext.d2_env`` does, ends then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from .files import held_locks

__all__ = ["GRACE", "end_children", "end_own_group", "end_with_parent", "start_child"]

GRACE = 10.0  # seconds from SIGTERM to SIGKILL
_VARIABLE = "MRCNN_EXT_PARENT_PIPE"  # says which pipe; other programs may be given other ones


def start_child(command: Sequence[str], *, env: Mapping[str, str], **kwargs) -> subprocess.Popen:
    """Start a process that ends with this one; folders that this one holds are held by it, too.

    Args:
        command: program and arguments.
        env: its whole environment.
        kwargs: for Popen.
    """
    read, write = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            stdin=read,
            env={**env, _VARIABLE: _name_of(read)},
            start_new_session=True,
            pass_fds=held_locks(),
            **kwargs,
        )
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    process.stdin = os.fdopen(write, "wb", buffering=0)  # open as long as this process lives
    return process


def end_children(children: Iterable[subprocess.Popen], grace: float = GRACE) -> None:
    """End children of :func:`start_child`, and all that they started: SIGTERM, then SIGKILL.

    Those that have ended by themselves may be given, too: what they left running is ended.

    Args:
        grace: seconds that they have to end by themselves.
    """
    children = list(children)
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError, PermissionError):  # nothing is left of it
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdin is not None:
            child.stdin.close()


def end_with_parent() -> None:
    """If :func:`start_child` started this process, end it and its group when its parent is gone."""
    global _watched
    if _watched or _VARIABLE not in os.environ:
        return
    with suppress(OSError):  # stdin is closed
        if _name_of(0) == os.environ[_VARIABLE]:
            _watched = True
            threading.Thread(target=_watch, name="end_with_parent", daemon=True).start()


_watched = False


def _name_of(pipe: int) -> str:
    status = os.fstat(pipe)
    return f"{status.st_dev}:{status.st_ino}"


def _watch() -> None:
    with suppress(OSError):
        while os.read(0, 1):  # nobody writes: it returns when the other end is closed
            pass
    end_own_group()


def end_own_group() -> None:
    """End this process, and its group if it leads one: SIGTERM, then SIGKILL after GRACE seconds."""
    _signal_group(signal.SIGTERM)
    time.sleep(GRACE)
    _signal_group(signal.SIGKILL)


def _signal_group(number: int) -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), number)
    else:  # one of several processes that a child started
        os.kill(os.getpid(), number)
