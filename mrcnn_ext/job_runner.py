# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Run trainings as processes, a few at a time, and show their progress.

They end with the process that runs them, whatever ends that one (see ``child_processes.py``).
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .child_processes import end_children, start_child
from .stop_signals import StopSignals

__all__ = ["Job", "JobError", "read_progress", "run_jobs"]

_POLL = 1.0  # seconds
_REPORT = 60.0  # seconds between lines where there is no terminal to draw bars on
_TAIL = 12  # lines of a failed job's output that are quoted
_WARNING = "warning: "  # starts lines of a job's output that are shown


class JobError(RuntimeError):
    """Jobs failed; the message quotes the end of each one's output."""


@dataclass(frozen=True)
class Job:
    """A command that trains.

    Attributes:
        name: for people.
        folder: gets its output.txt, to which every start adds, and Detectron2's metrics.json.
        command: program and arguments.
        iterations: of the training.
        is_done: whether its result exists.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    iterations: int
    is_done: Callable[[], bool] = field(compare=False)

    @property
    def log(self) -> Path:
        return self.folder / "output.txt"


def run_jobs(
    jobs: Iterable[Job],
    at_a_time: int,
    *,
    console: Console | None = None,
    env: Mapping[str, str] | None = None,
    on_done: Callable[[Job], None] | None = None,
    signals: StopSignals | None = None,
) -> None:
    """Run the jobs that have no result yet, in order; a failed one does not stop the others.

    Lines of their output that start with "warning: " are shown. Jobs that run when this ends are ended,
    with all their processes; where they stood is shown.

    Args:
        jobs: all of them.
        at_a_time: how many run at once and share the cores.
        console: shows progress: bars on a terminal, else a line per minute.
        env: added to the environment.
        on_done: called after each job that got its result.
        signals: those that end this; None: those of :class:`~mrcnn_ext.stop_signals.StopSignals`.

    Raises:
        JobError: some ended without a result. All others have run.
        Stopped: a signal came.
    """
    everything = list(jobs)
    waiting = [job for job in everything if not job.is_done()]
    console = console or Console(highlight=False, soft_wrap=True)
    there = len(everything) - len(waiting)
    console.print(f"{there} trainings are there, {len(waiting)} to do")
    running: dict[Job, subprocess.Popen] = {}
    failed: list[str] = []
    with ExitStack() as stack:
        signals = signals or stack.enter_context(StopSignals())
        display = stack.enter_context(_Display(console, len(waiting)))
        try:
            while waiting or running:
                while waiting and len(running) < at_a_time:
                    with signals.held():  # a process that is started is in ``running``
                        job = waiting.pop(0)
                        running[job] = _start(job, at_a_time, env or {})
                    display.started(job, running[job].pid)
                time.sleep(_POLL)
                signals.check()
                display.update(running)
                for job in [job for job, process in running.items() if process.poll() is not None]:
                    end_children([running.pop(job)])  # its workers, if it crashed
                    display.ended(job)
                    if not job.is_done():
                        failed.append(_failure(job))
                    elif on_done is not None:
                        on_done(job)
        finally:
            with signals.held():
                end_children(running.values())
                display.stopped(running)
    if failed:
        raise JobError("\n".join(failed))


def read_progress(folder: Path) -> dict[str, float]:
    """Read the last line of a training's metrics.json; empty if there is none."""
    file = folder / "metrics.json"
    try:
        with open(file, "rb") as opened:
            opened.seek(0, os.SEEK_END)
            opened.seek(max(0, opened.tell() - 8192))
            lines = opened.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines[-3:]):  # the last may be half written
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("iteration"), int):
            return entry
    return {}


def _start(job: Job, at_a_time: int, env: Mapping[str, str]) -> subprocess.Popen:
    job.folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // at_a_time))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, **env}  # who sets it, means it
    with open(job.log, "a", encoding="utf-8") as log:
        log.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {shlex.join(job.command)}\n")
        log.flush()
        return start_child(job.command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _failure(job: Job) -> str:
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    tail = "\n".join(lines[-_TAIL:])
    return f"{job.name} failed; the end of {job.log}:\n{tail}"


class _Display:
    """A bar for each running job and one for all; lines where there is no terminal."""

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.ended_jobs = 0
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.all = self.bars.add_task("all", total=max(1, total), text="")
        self.tasks: dict[Job, int] = {}
        self.begun_at: dict[Job, float] = {}
        self.read: dict[Job, int] = {}  # bytes of its output that were searched for warnings
        self.start = self.last = time.monotonic()

    def __enter__(self) -> _Display:
        self.bars.start()
        return self

    def __exit__(self, *error) -> None:
        self.bars.stop()

    def stopped(self, running: Iterable[Job]) -> None:
        """Say where jobs stood that were ended."""
        for job in running:
            entry = read_progress(job.folder)
            text = _state(job, int(entry.get("iteration", -1)) + 1, entry)
            self.console.print(f"ended {job.name} ({text})", markup=False)

    def _warnings(self, job: Job) -> None:
        with open(job.log, "rb") as log:
            log.seek(self.read[job])
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.read[job] += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            if line.startswith(_WARNING):
                text = line.removeprefix(_WARNING)
                self.console.print(f"warning: {job.name}: {text}", markup=False)

    def started(self, job: Job, process: int) -> None:
        done = read_progress(job.folder).get("iteration", -1) + 1
        where = f", from iteration {done:.0f}" if done else ""
        self.console.print(f"started {job.name}, process {process}{where}", markup=False)
        self.tasks[job] = self.bars.add_task(job.name, total=job.iterations, text="starting")
        # What is left counts from where an interrupted training goes on
        self.begun_at[job] = done
        self.read[job] = job.log.stat().st_size if job.log.is_file() else 0

    def ended(self, job: Job) -> None:
        self._warnings(job)
        self.bars.remove_task(self.tasks.pop(job))  # type: ignore[arg-type]
        self.ended_jobs += 1
        word = "done   " if job.is_done() else "FAILED "
        self.console.print(f"{word} {job.name}", markup=False)

    def update(self, running: Iterable[Job]) -> None:
        texts, fraction = [], float(self.ended_jobs)
        for job in running:
            self._warnings(job)
            entry = read_progress(job.folder)
            step = int(entry.get("iteration", -1)) + 1
            text = _state(job, step, entry)
            self.bars.update(self.tasks[job], completed=step, text=text)  # type: ignore[arg-type]
            fraction += (step - self.begun_at[job]) / max(1, job.iterations - self.begun_at[job])
            texts.append(f"{job.name}: {text}")
        self.bars.update(self.all, completed=fraction, text=f"{self.ended_jobs} of {self.total}")
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last > _REPORT:
            self.last = now
            elapsed = now - self.start
            minutes = elapsed / fraction * (self.total - fraction) / 60 if fraction > 0 else None
            left = "unknown" if minutes is None else f"{minutes:.0f} minutes"
            line = f"{fraction:.1f} of {self.total} done, left: {left}; " + ", ".join(texts)
            self.console.print(line, markup=False)


def _state(job: Job, step: int, entry: Mapping[str, float]) -> str:
    if step >= job.iterations:
        return "evaluating"
    if not step:
        return "starting"
    losses = [(key, value) for key, value in entry.items() if key.startswith("loss_mask")]
    text = f"{step}/{job.iterations}, loss {entry.get('total_loss', float('nan')):.3f}"
    return text + "".join(f", {key[len('loss_') :]} {value:.3f}" for key, value in losses[:2])
