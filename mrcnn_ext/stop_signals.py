# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""End on SIGINT, SIGTERM and SIGHUP as on an exception, but never within a write."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["StopSignals", "Stopped", "exit_code"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """A signal asked to end.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def exit_code(stop: KeyboardInterrupt) -> int:
    """The exit code of a command that this ended."""
    return stop.exit_code if isinstance(stop, Stopped) else 128 + signal.SIGINT


class StopSignals:
    """While it is entered, the first signal raises Stopped in the main thread; others are ignored."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._held = 0
        self._raised = False
        self._previous: dict = {}

    def __enter__(self) -> StopSignals:
        self._held += 1  # what is raised here, no block could catch
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                previous = signal.getsignal(number)
                if number == getattr(signal, "SIGHUP", None) and previous == signal.SIG_IGN:
                    continue  # nohup
                self._previous[number] = previous
                signal.signal(number, self._handle)
        self._held -= 1
        return self

    def __exit__(self, *_) -> None:
        self._held += 1
        for number, previous in self._previous.items():
            signal.signal(number, previous or signal.SIG_DFL)
        self._held -= 1

    def _handle(self, number: int, _frame) -> None:
        if self._number is None:
            self._number = number
            self.check()

    def check(self) -> None:
        """Raise Stopped if a signal came and nothing has been raised for it.

        To be called now and then: an exception that a signal raises within a destructor is lost.
        """
        if self._number is not None and not self._held:
            self._raised = True
            raise Stopped(self._number)

    def ignore(self) -> None:
        """From now on, no signal ends anything."""
        self._held += 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that is not interrupted; a signal that comes meanwhile counts at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if not self._raised:
            self.check()
