# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What writers of whole runs share: they collect, and send in a thread of their own."""

from __future__ import annotations

import importlib
import logging
import os
import queue
import sys
import threading
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from ...errors import ConfigError
from ...modes import same_random_numbers
from ..running import running_methods
from .guarded_writer import MOST_FAILURES, Failures
from .run_facts import config_text, config_values, git_state, saved_config

__all__ = ["Picture", "RunWriter", "needed_package"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

_WAITING = 256  # entries that may wait to be sent
_WAITING_PICTURES = 64


def needed_package(module: str, package: str, writer: str) -> ModuleType:
    """Import what a writer needs.

    Args:
        module: its name.
        package: what pip calls it.
        writer: its name in LOG.WRITERS.

    Raises:
        ConfigError: it cannot be imported; has the command that installs it.
    """
    try:
        found = importlib.import_module(module)
        if found.__file__ is None:  # a folder: W&B leaves one of its name where it writes
            raise ImportError(f"there is only a folder {module}")
    except ImportError as error:
        raise ConfigError(
            f"MRCNN_EXT.LOG.WRITERS has '{writer}', which needs the package {package}: pip install "
            f"{package} ({error})."
        ) from error
    return found


@dataclass
class Picture:
    """
    Attributes:
        name: as given to ``EventStorage.put_image``.
        image: uint8 (H, W, 3), RGB.
        iteration: when it was made.
    """

    name: str
    image: np.ndarray
    iteration: int


@dataclass
class _Entry:
    scalars: dict[int, dict[str, float]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    histograms: list[dict] = field(default_factory=list)


class RunWriter(EventWriter):
    """Sends scalars, pictures and facts about the run, and never ends or holds up a training.

    Scalars are smoothed as Detectron2's writers do. They are collected in :meth:`write`; a thread
    sends them, so that a slow disk or network costs no time. If it cannot keep up, entries are left
    out, with a warning. An exception is logged once; after several in a row, nothing more is sent. Only
    the main process writes.

    A run that starts at iteration 0 is a new one; one that is resumed later goes on with the run
    that the writer left in its folder.

    Pictures of the storage are left there until the next call of ``write``: other writers see them,
    too. Detectron2's TensorboardXWriter, if there is one besides, must come after.
    """

    def __init__(
        self,
        *,
        folder: str | os.PathLike | None = None,
        config: Any = None,
        window_size: int = 20,
        start_seconds: float = 60.0,
        close_seconds: float = 60.0,
        most_failures: int = MOST_FAILURES,
    ) -> None:
        """
        Args:
            folder: of the training.
            config: what :func:`~.run_facts.config_text` takes. None: the config.yaml in ``folder``,
                which Detectron2's scripts write, of a LazyConfig, too.
            window_size: iterations over whose median scalars are smoothed.
            start_seconds: how long the first entry may hold up training.
            close_seconds: how long the end of training waits for what is not sent yet.
            most_failures: exceptions in a row after which nothing more is sent.
        """
        if config is None and folder is not None:
            config = saved_config(folder)
        self.config_text, self.config_values = config_text(config), config_values(config)
        self.git = git_state() if comm.is_main_process() else None
        self._window_size = window_size
        self._start_seconds, self._close_seconds = start_seconds, close_seconds
        self._failures = Failures(type(self).__name__, most_failures)
        self._written: dict[str, int] = {}  # scalar -> iteration of its last entry
        self._final: dict[str, float] = {}
        # As JSONWriter has it: an exact resume sets it to what was written before.
        self._last_write = -1
        self._seen: dict[str, list] = {}
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_WAITING)
        self._waiting_pictures = 0
        self._lock = threading.Lock()  # of that number
        self._begin: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        self._open = False  # a run is open: the thread's own note
        self._left_out = False

    # ------------------------------------------------------ of a subclass, called in the thread

    @abstractmethod
    def start(self, first_iteration: int) -> None:
        """Open the run, and send the config and the state of the code.

        Args:
            first_iteration: more than 0 if training was resumed.
        """

    @abstractmethod
    def send(self, scalars: dict[int, dict[str, float]], pictures: list[Picture]) -> None:
        """
        Args:
            scalars: iteration -> name -> value.
            pictures: those that are new.
        """

    def send_histograms(self, histograms: list[dict]) -> None:
        """
        Args:
            histograms: those that are new, as ``EventStorage.put_histogram`` leaves them.
        """

    @abstractmethod
    def finish(self, final: dict[str, float], status: str) -> None:
        """Close the run.

        Args:
            final: last value of each scalar.
            status: "finished", "failed" after an exception, or "killed" by a signal.
        """

    # -------------------------------------------------------------------- called by the trainer

    def write(self) -> None:
        """Hand over what is new in the current EventStorage."""
        if not comm.is_main_process() or self._failures.given_up:
            return
        try:
            storage = get_event_storage()
            entry = self._collect(storage)
            if self._thread is None:
                self._start_thread(_first_iteration(storage))
            self._hand_over(entry)
        except Exception as error:
            self._failures.add(error)

    def close(self) -> None:
        """Send the final values, and wait for all that is not sent yet, but not for ever."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        status, final = _status(), dict(self._final)

        def end() -> None:
            if self._open:
                self.finish(final, status)

        until = time.monotonic() + self._close_seconds
        with suppress(queue.Full):
            self._queue.put(end, timeout=self._close_seconds)
            self._queue.put(None, timeout=max(0.1, until - time.monotonic()))
            thread.join(max(0.1, until - time.monotonic()))
        if thread.is_alive():
            logger.warning(
                f"The writer {type(self).__name__} did not end within {self._close_seconds:g} seconds: "
                "its last entries may be lost. metrics.json has all numbers."
            )

    # ---------------------------------------------------------------------------------- parts

    def _collect(self, storage: EventStorage) -> _Entry:
        entry = _Entry()
        scalars: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(
            self._window_size
        ).items():
            self._final[name] = float(value)
            if iteration > self._last_write and self._written.get(name) != iteration:
                scalars[iteration][name] = float(value)
                self._written[name] = iteration
        entry.scalars = dict(sorted(scalars.items()))
        # Detectron2's storage has no other access to these; see its TensorboardXWriter.
        for name, image, iteration in self._new("pictures", storage._vis_data):
            entry.pictures.append(Picture(name, _rgb(image), iteration))
        entry.histograms = self._new("histograms", storage._histograms)
        return entry

    def _new(self, kind: str, items: list) -> list:
        """Items that were not there last time; those that were are deleted, all writers saw them."""
        seen = self._seen.get(kind, [])
        new = [item for item in items if not any(item is other for other in seen)]
        if len(new) < len(items):
            items[:] = new
        self._seen[kind] = list(new)
        return new

    def _start_thread(self, first_iteration: int) -> None:
        self._thread = threading.Thread(
            target=self._work, name=f"mrcnn_ext {type(self).__name__}", daemon=True
        )
        ready = threading.Event()

        def start() -> None:
            try:
                self._begin = lambda: self.start(first_iteration)
                self._begin_if_needed()
            finally:
                ready.set()

        # Libraries may draw random numbers when they begin: training's stay as they are.
        with same_random_numbers():
            self._thread.start()
            self._queue.put(start)
            if not ready.wait(self._start_seconds):
                logger.warning(
                    f"The writer {type(self).__name__} did not begin within "
                    f"{self._start_seconds:g} seconds. Training goes on meanwhile."
                )

    def _begin_if_needed(self) -> None:
        if not self._open:
            self._begin()
            self._open = True

    def _hand_over(self, entry: _Entry) -> None:
        if entry.pictures and self._waiting_pictures + len(entry.pictures) > _WAITING_PICTURES:
            entry.pictures = []
            self._say_left_out()
        number = len(entry.pictures)

        def send() -> None:
            try:
                self._begin_if_needed()  # again, if it failed
                self.send(entry.scalars, entry.pictures)
                if entry.histograms:
                    self.send_histograms(entry.histograms)
            finally:
                self._count_pictures(-number)

        self._count_pictures(number)
        try:
            self._queue.put_nowait(send)
        except queue.Full:
            self._count_pictures(-number)
            self._say_left_out()

    def _count_pictures(self, number: int) -> None:
        with self._lock:
            self._waiting_pictures += number

    def _say_left_out(self) -> None:
        if not self._left_out:
            self._left_out = True
            logger.warning(
                f"The writer {type(self).__name__} cannot keep up: some entries are left out. "
                "metrics.json has all numbers."
            )

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if self._failures.given_up:
                continue
            try:
                job()
            except BaseException as error:  # also a library's sys.exit
                self._failures.add(error)
            else:
                self._failures.success()


def _first_iteration(storage: EventStorage) -> int:
    """Where this process's training started.

    A writer is not told; the hook that calls it knows. Without one: the iteration of the oldest value.
    """
    for _, caller in running_methods():
        if isinstance(caller, HookBase) and hasattr(caller.trainer, "start_iter"):
            return int(caller.trainer.start_iter)
    starts = [history.values()[0][1] for history in storage.histories().values()]
    return int(min(starts, default=storage.iter))


def _status() -> str:
    """How training ends: trainers close their writers while an exception passes."""
    error = sys.exc_info()[1]
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "finished"
    return "failed" if isinstance(error, Exception) else "killed"


def _rgb(image: Any) -> np.ndarray:
    """uint8 (H, W, 3) of (3, H, W) in 0 … 1 or 0 … 255, a tensor or array."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.dtype != np.uint8:
        array = (255 * array if np.issubdtype(array.dtype, np.floating) else array).clip(0, 255)
    return np.ascontiguousarray(array.astype(np.uint8).transpose(1, 2, 0))
