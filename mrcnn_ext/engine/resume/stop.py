# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""On SIGTERM, which clusters send before they end a job, write a checkpoint and end."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ...checkpoint.training_checkpointer import TrainingCheckpointer

__all__ = ["StopOnSignal"]

logger = logging.getLogger("detectron2." + __name__)  # which its tools print

_CODE = 128 + signal.SIGTERM  # as shells have it


class StopOnSignal(HookBase):
    """Ends the process with 143 after SIGTERM, with a checkpoint of the last whole step.

    It comes after the hooks that belong to a step (learning rate, moving average, checkpoints) and
    before the evaluation. A signal that comes within a step waits for its end: all processes of a
    training end after the same one. A signal in an evaluation ends it; the resumed training makes up
    for it.
    """

    def __init__(self, checkpointer: TrainingCheckpointer) -> None:
        self._checkpointer = checkpointer
        self._asked = False
        self._in_step = True
        self._done: int | None = None  # the last whole step
        self._previous: Any = None

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            self._previous = signal.signal(signal.SIGTERM, self._handle)

    def before_step(self) -> None:
        self._in_step = True

    def after_step(self) -> None:
        self._done = self.trainer.iter
        self._in_step = False
        if any(comm.all_gather(self._asked)):
            self._asked = True
            raise SystemExit(_CODE)

    def after_train(self) -> None:
        if self._asked and self._done is not None:
            # The loop may have begun the next step.
            self.trainer.iter = self.trainer.storage.iter = self._done
            self._in_step = True  # what is written now is written to its end
            if comm.is_main_process():
                name = f"model_{self._done:07d}"
                logger.info(f"SIGTERM: writing {name}.pth; --resume goes on from it.")
                self._checkpointer.save(name, iteration=self._done)
        if self._previous is not None and not self._asked:
            signal.signal(signal.SIGTERM, self._previous)

    def _handle(self, _number: int, _frame) -> None:
        again, self._asked = self._asked, True
        if not self._in_step and not again:
            raise SystemExit(_CODE)
