# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The trainings of the study, a few at a time, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import POOLER_TYPES
from .training import run_folder

__all__ = ["Plan", "StudyError", "finished", "run_all"]

_POLL = 5.0  # seconds
_REPORT = 60.0


class StudyError(RuntimeError):
    """The study cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Args:
        output: folder of the study.
        seeds: how many; they are 1, 2, …
        iterations: of each training.
        jobs: trainings at a time, which share the cores.
        opts: config overrides for all runs.
    """

    output: Path
    seeds: int
    iterations: int
    jobs: int = 2
    opts: tuple[str, ...] = ()

    def runs(self) -> list[tuple[str, int]]:
        """Seed by seed, so that whatever is done is paired."""
        return [(kind, seed) for seed in range(1, self.seeds + 1) for kind in POOLER_TYPES]


def finished(plan: Plan, pooler_type: str, seed: int) -> bool:
    """Whether a run has its result.

    Raises:
        StudyError: it has one, but of other settings.
    """
    file = run_folder(plan.output, pooler_type, seed) / "result.json"
    if not file.is_file():
        return False
    result = json.loads(file.read_text())
    if (result["iterations"], tuple(result["opts"])) != (plan.iterations, plan.opts):
        raise StudyError(
            f"{file} is of {result['iterations']} iterations with overrides {result['opts']}, not "
            f"of {plan.iterations} with {list(plan.opts)}. Take another --output, or delete it."
        )
    return True


def run_all(plan: Plan, command: Callable[[str, int], Sequence[str]]) -> None:
    """Train what is not there yet, ``plan.jobs`` at a time, saying how far it is.

    Args:
        command: from pooler type and seed to the command line that trains them.

    Raises:
        StudyError: a training failed; the others have run to their end.
    """
    waiting = [run for run in plan.runs() if not finished(plan, *run)]
    total, start, last = len(waiting), time.monotonic(), 0.0
    running: dict[tuple[str, int], subprocess.Popen] = {}
    failed: list[str] = []
    print(f"{len(plan.runs()) - total} trainings are there, {total} to do", flush=True)
    try:
        while waiting or running:
            while waiting and len(running) < plan.jobs:
                run = waiting.pop(0)
                running[run] = _start(plan, run, command(*run))
                print(f"started {_name(run)}, process {running[run].pid}", flush=True)
            time.sleep(_POLL)
            for run, process in list(running.items()):
                if process.poll() is not None:
                    del running[run]
                    failed += _outcome(plan, run)
            if time.monotonic() - last > _REPORT:
                last = time.monotonic()
                _say_progress(plan, list(running), len(waiting), total, last - start)
    finally:
        for process in running.values():
            process.terminate()
    if failed:
        raise StudyError("\n".join(failed))


def _name(run: tuple[str, int]) -> str:
    return f"{run[0]} seed {run[1]}"


def _start(plan: Plan, run: tuple[str, int], command: Sequence[str]) -> subprocess.Popen:
    folder = run_folder(plan.output, *run)
    folder.mkdir(parents=True, exist_ok=True)
    # What an interrupted attempt left would count as progress
    (folder / "metrics.json").unlink(missing_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // plan.jobs))
    env = {**os.environ, "OMP_NUM_THREADS": threads}
    with open(folder / "output.txt", "w", encoding="utf-8") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)


def _outcome(plan: Plan, run: tuple[str, int]) -> list[str]:
    if finished(plan, *run):
        print(f"done    {_name(run)}", flush=True)
        return []
    log = run_folder(plan.output, *run) / "output.txt"
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
    print(f"FAILED  {_name(run)}", flush=True)
    return [f"{_name(run)} failed; the end of {log}:\n{tail}"]


def _iteration(plan: Plan, run: tuple[str, int]) -> int:
    file = run_folder(plan.output, *run) / "metrics.json"
    lines = file.read_text().splitlines() if file.is_file() else []
    try:
        return int(json.loads(lines[-1])["iteration"]) + 1
    except (IndexError, ValueError, KeyError):  # nothing yet, or a line half written
        return 0


def _say_progress(
    plan: Plan, running: list[tuple[str, int]], waiting: int, total: int, elapsed: float
) -> None:
    at = {run: _iteration(plan, run) for run in running}
    done = total - waiting - len(running) + sum(at.values()) / plan.iterations
    left = f"{elapsed / done * (total - done) / 60:.0f} minutes" if done > 0 else "unknown"
    where = ", ".join(f"{_name(run)}: {step}/{plan.iterations}" for run, step in at.items())
    print(f"{done:.1f} of {total} done, left: {left}; {where}", flush=True)
