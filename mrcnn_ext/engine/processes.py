# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Run a function in several new processes: one failure ends all, and is said once.

They end with the process that started them, whatever ends that one.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess

from ..child_processes import GRACE, end_own_group
from ..stop_signals import Stopped, StopSignals, exit_code
from .expected_errors import EXPECTED_ERRORS, expected_error

__all__ = [
    "STOP_GRACE",
    "Outcome",
    "ProcessError",
    "end_processes",
    "outcome_of",
    "raise_outcome",
    "run_processes",
]

# Seconds that processes have for a checkpoint after a signal, until they are killed.
STOP_GRACE = 60.0


class ProcessError(RuntimeError):
    """One of several processes failed; the message says which, and has its traceback."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended; it is sent to the one that started it.

    Attributes:
        time: of the monotonic clock, which all processes of a machine share.
        kind: "done", "error" (of EXPECTED_ERRORS), "failed" (any other), "stopped" or "exit".
        error: class of an expected error.
        text: its message, or a traceback.
        code: exit code.
    """

    time: float
    kind: str
    error: type[Exception] | None = None
    text: str = ""
    code: int = 0


def outcome_of(run: Callable[[], object]) -> Outcome:
    """Call a function; whatever it raises is in the outcome."""
    try:
        with StopSignals():
            run()
    except KeyboardInterrupt as stop:
        return Outcome(time.monotonic(), "stopped", code=exit_code(stop))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        text = end.code if isinstance(end.code, str) else ""
        kind = "exit" if code else "done"
        return Outcome(time.monotonic(), kind, text=text, code=code)
    except BaseException as error:
        expected = expected_error(error)
        if expected is not None:
            known = next(cls for cls in EXPECTED_ERRORS if isinstance(expected, cls))
            return Outcome(time.monotonic(), "error", known, str(expected), 1)
        return Outcome(time.monotonic(), "failed", text=traceback.format_exc(), code=1)
    return Outcome(time.monotonic(), "done")


def raise_outcome(outcome: Outcome, who: str, hint: str = "") -> None:
    """Raise in this process what another one ended with.

    Args:
        outcome: of that process.
        who: names it, for example "process 1 of 2".
        hint: added to the message of an error that was not expected.

    Raises:
        ConfigError, DataError, WeightsError, FloatingPointError, OSError: with its message.
        Stopped: a signal ended it.
        SystemExit: with its exit code.
        ProcessError: it failed otherwise.
    """
    if outcome.kind == "error":
        assert outcome.error is not None
        raise outcome.error(outcome.text)
    if outcome.kind == "stopped":
        raise Stopped(outcome.code - 128)
    if outcome.kind == "exit":
        raise SystemExit(outcome.text or outcome.code)
    if outcome.kind == "failed":
        raise ProcessError(f"{who} failed{hint}:\n{outcome.text.rstrip()}")


def run_processes(
    target: Callable, arguments: Sequence[tuple], names: Sequence[str], hint: str = ""
) -> None:
    """Run ``target(*arguments[i])`` in a new process each, and wait for all.

    If one fails, the others are ended. A signal to this process (as an exception of
    :class:`~mrcnn_ext.stop_signals.StopSignals`) ends all, which have STOP_GRACE seconds for it.

    Args:
        target: can be pickled, as can all arguments.
        arguments: of each process.
        names: of each process, for messages.
        hint: as for :func:`raise_outcome`.

    Raises:
        see :func:`raise_outcome`.
    """
    context = multiprocessing.get_context("spawn")
    started: dict = {}  # where its outcome comes from -> process and name
    try:
        for args, name in zip(arguments, names):
            read, write = context.Pipe(duplex=False)
            process = context.Process(target=_report, args=(write, target, args), name=name)
            process.start()
            write.close()  # so that the pipe ends with the process
            started[read] = (process, name)
        found = _wait(started)
    except BaseException:  # a signal
        end_processes([process for process, _ in started.values()], STOP_GRACE)
        raise
    grace = None
    if found is not None:  # after a signal, one process may write a checkpoint for all
        grace = STOP_GRACE if found[0].code > 128 else GRACE
    end_processes([process for process, _ in started.values()], grace)
    if found is not None:
        raise_outcome(found[0], found[1], hint)


def _wait(started: dict) -> tuple[Outcome, str] | None:
    """The first outcome that is no success; None if all succeeded."""
    open_pipes = dict(started)
    while open_pipes:
        ended: list[tuple[Outcome, str]] = []
        pipes: list = connection.wait(list(open_pipes), timeout=1.0)
        for pipe in pipes:
            process, name = open_pipes.pop(pipe)
            try:
                outcome = pipe.recv()
            except EOFError:
                outcome = _killed(process)
            if outcome.kind != "done":
                ended.append((outcome, name))
        if ended:
            return min(ended, key=lambda pair: pair[0].time)
    return None


def _killed(process: BaseProcess) -> Outcome:
    """The outcome of a process that could not send one."""
    process.join(GRACE)
    code = process.exitcode or 1
    if code == -signal.SIGTERM:
        return Outcome(time.monotonic(), "stopped", code=128 + signal.SIGTERM)
    text = f"exit code {code}"
    if code < 0:
        text = f"ended by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        text += "; Linux does that where memory runs out"
    return Outcome(time.monotonic(), "failed", text=text, code=1)


def end_processes(processes: Iterable[BaseProcess], grace: float | None) -> None:
    """Wait until all have ended.

    Args:
        processes: of multiprocessing.
        grace: seconds from SIGTERM, which they get now, to SIGKILL; None: neither.
    """
    processes = list(processes)
    if grace is None:
        for process in processes:
            process.join()
        return
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace
    for process in processes:
        with suppress(KeyboardInterrupt):  # once more ^C
            process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
        process.join()


def _report(pipe: connection.Connection, target: Callable, args: tuple) -> None:
    end_with_starter()
    outcome = outcome_of(lambda: target(*args))
    with suppress(OSError):  # nobody listens any more
        pipe.send(outcome)
    pipe.close()
    if outcome.code:
        raise SystemExit(outcome.code)


def end_with_starter() -> None:
    """End this process, started by multiprocessing, when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(
            target=_watch, args=(parent,), name="end_with_starter", daemon=True
        ).start()


def _watch(parent) -> None:
    parent.join()
    end_own_group()
