# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Train and evaluate the runs of a comparison that are missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from ..checkpoint import checkpoint_problem
from ..files import only_process, write_json
from ..job_runner import Job, run_jobs
from .checks import run_settings
from .plan import Plan, Variant
from .run import write_spec
from .training import FINAL

__all__ = ["detector_weights", "evaluate_only", "train_all"]


def detector_weights(plan: Plan) -> str:
    """File with the weights of the frozen detector; "" for end-to-end trainings."""
    if plan.mode != "frozen":
        return ""
    return plan.detector or str(plan.detector_folder / FINAL)


def train_all(
    plan: Plan,
    *,
    evaluate: bool = True,
    console: Console | None = None,
    on_done: Callable[[], None] | None = None,
    **how,
) -> None:
    """Train and evaluate all missing runs, the frozen detector first.

    Args:
        evaluate: False leaves evaluation for later.
        on_done: called after each run.
        how: for :func:`~mrcnn_ext.job_runner.run_jobs`: env, signals.

    Raises:
        JobError: a training failed; the others have run.
        DataError: another process is at work in the folder of one.
    """
    jobs = [_job(plan, variant, seed, evaluate) for variant, seed in plan.runs()]
    if plan.mode == "frozen" and not plan.detector:
        if not all(job.is_done() for job in jobs):
            _check_detector(plan.detector_folder)
        run_jobs([_detector_job(plan)], 1, console=console, **how)
    done = on_done or (lambda: None)
    run_jobs(jobs, plan.jobs, console=console, on_done=lambda job: done(), **how)


def _check_detector(folder: Path) -> None:
    """Let its training go on from an earlier checkpoint if the last is damaged."""
    trained = folder / "training.json"
    if trained.is_file() and checkpoint_problem(folder / FINAL) is not None:
        with only_process(folder):
            trained.unlink()


def evaluate_only(plan: Plan, *, console: Console | None = None, **how) -> list[str]:
    """Evaluate trained runs that have no result yet.

    Args:
        how: for :func:`~mrcnn_ext.job_runner.run_jobs`: env, signals.

    Returns:
        names of runs that are not trained yet.
    """
    jobs, missing = [], []
    for variant, seed in plan.runs():
        if (plan.folder(variant, seed) / "training.json").is_file():
            jobs.append(_job(plan, variant, seed, evaluate=True))
        else:
            missing.append(_name(variant, seed))
    run_jobs(jobs, plan.jobs, console=console, **how)
    return missing


def _name(variant: Variant, seed: int) -> str:
    return f"{variant.name} seed {seed}"


def _command(plan: Plan, folder: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "mrcnn_ext.compare.run", str(folder), *plan.imports)


def _detector_job(plan: Plan) -> Job:
    folder, cfg = plan.detector_folder, plan.detector_config()
    done = folder / "training.json"
    if not done.is_file():
        with only_process(folder):
            write_spec(
                folder, cfg, variant="detector", seed=0, detector="", frozen=False, evaluate=False,
                part=plan.kind.name, trust_pickle=plan.trust_pickle,
            )  # fmt: skip
    return Job("detector", folder, _command(plan, folder), cfg.SOLVER.MAX_ITER, done.is_file)


def _job(plan: Plan, variant: Variant, seed: int, evaluate: bool) -> Job:
    folder, cfg = plan.folder(variant, seed), plan.config(variant, seed)
    done = folder / ("result.json" if evaluate else "training.json")
    if not done.is_file():
        with only_process(folder):
            write_json(folder / "settings.json", run_settings(plan, variant, seed))
            write_spec(
                folder, cfg, variant=variant.name, seed=seed, detector=detector_weights(plan),
                frozen=plan.mode == "frozen", evaluate=evaluate, part=plan.kind.name,
                trust_pickle=plan.trust_pickle, optimized=plan.optimized,
            )  # fmt: skip
    return Job(
        _name(variant, seed), folder, _command(plan, folder), cfg.SOLVER.MAX_ITER, done.is_file
    )
