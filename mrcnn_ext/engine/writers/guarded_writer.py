# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Writers whose failures do not end a training."""

from __future__ import annotations

import logging

from detectron2.utils.events import EventWriter

__all__ = ["Failures", "GuardedWriter"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

MOST_FAILURES = 3


class Failures:
    """Warns of the first failure of a writer, and again when it is given up.

    Attributes:
        given_up: the writer failed ``most`` times in a row, and is not to be called again.
    """

    def __init__(self, name: str, most: int = MOST_FAILURES) -> None:
        """
        Args:
            name: of the writer, for the messages.
            most: failures in a row after which it is given up.
        """
        self._name = name
        self._most = most
        self._in_a_row = 0
        self._warned = False
        self.given_up = False

    def add(self, error: BaseException) -> None:
        """Count a failure."""
        self._in_a_row += 1
        reason = f"{type(error).__name__}: {error}"
        if self._in_a_row >= self._most and not self.given_up:
            self.given_up = True
            logger.warning(
                f"The writer {self._name} failed {self._in_a_row} times in a row ({reason}) and is not "
                "called again. Training goes on; metrics.json has all numbers."
            )
        elif not self._warned:
            logger.warning(f"The writer {self._name} failed ({reason}). Training goes on.")
        self._warned = True

    def success(self) -> None:
        """Begin to count anew."""
        self._in_a_row = 0


class GuardedWriter(EventWriter):
    """Any writer, whose exceptions become a warning: a full disk or a lost server costs no training."""

    def __init__(self, writer: EventWriter, *, most_failures: int = MOST_FAILURES) -> None:
        """
        Args:
            writer: is called as a trainer would call it.
            most_failures: exceptions in a row after which it is not called again.
        """
        self.writer = writer
        self._failures = Failures(type(writer).__name__, most_failures)

    @property
    def _last_write(self) -> int:  # of those that have it; an exact resume sets it
        return self.writer._last_write  # type: ignore[attr-defined]

    @_last_write.setter
    def _last_write(self, iteration: int) -> None:
        self.writer._last_write = iteration  # type: ignore[attr-defined]

    def write(self) -> None:
        """As the writer's, but without exceptions."""
        if self._failures.given_up:
            return
        try:
            self.writer.write()
        except Exception as error:
            self._failures.add(error)
        else:
            self._failures.success()

    def close(self) -> None:
        """As the writer's, but without exceptions."""
        try:
            self.writer.close()
        except Exception as error:
            if not self._failures.given_up:
                self._failures.add(error)
