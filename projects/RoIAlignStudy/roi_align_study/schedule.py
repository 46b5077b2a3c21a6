# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The trainings of the study, a few at a time, each in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mrcnn_ext.job_runner import Job, JobError, run_jobs

from . import POOLER_TYPES
from .training import run_folder

__all__ = ["Plan", "StudyError", "finished", "run_all"]


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
    jobs = []
    for pooler_type, seed in plan.runs():
        folder = run_folder(plan.output, pooler_type, seed)
        if not finished(plan, pooler_type, seed):
            # What an interrupted attempt left would count as progress
            (folder / "metrics.json").unlink(missing_ok=True)
        jobs.append(
            Job(
                name=f"{pooler_type} seed {seed}",
                folder=folder,
                command=tuple(command(pooler_type, seed)),
                iterations=plan.iterations,
                is_done=partial(finished, plan, pooler_type, seed),
            )
        )
    try:
        run_jobs(jobs, plan.jobs)
    except JobError as error:
        raise StudyError(str(error)) from error
