# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Paired trainings of yaml configs: each config with the same seeds, and tables of their differences.

A study names its configs, which rows its tables have and which are compared; the rest is here: running
what is missing, going on after an interruption, reading ``metrics.json``, tables. Used by the scripts
of ``projects/``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scipy import stats

from ..config.schedule import short_schedule
from ..files import write_json, write_text
from ..job_runner import Job, JobError, run_jobs
from ..stop_signals import Stopped
from .statistics import mean, number_or_none, spread

__all__ = ["Plan", "Study", "StudyError", "difference", "is_done", "report", "study_main", "train"]


class StudyError(RuntimeError):
    """The study cannot go on; the message says what to do."""


def _nothing(folder: Path) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        configs: folder of ``<training>.yaml``.
        trainings: in the order in which a seed's are run.
        measures: name in ``metrics.json`` -> title of a column.
        rows: title of a row -> training, and what comes before its measures' names ("ema/").
        pairs: titles of two rows; the second is taken from the first.
        last: trainings that tell least: run after all seeds of the others.
        prepare: called with the study's folder before anything is trained; returns config overrides
            of all trainings, for example of data sets that it wrote there.
    """

    configs: Path
    trainings: tuple[str, ...]
    measures: dict[str, str]
    rows: dict[str, tuple[str, str]]
    pairs: tuple[tuple[str, str], ...]
    last: tuple[str, ...] = ()
    prepare: Callable[[Path], tuple[str, ...]] = field(default=_nothing)


@dataclass(frozen=True)
class Plan:
    """A study in a folder: each of its trainings with the seeds 1 to ``seeds``."""

    study: Study
    output: Path
    seeds: int
    iterations: int
    jobs: int
    opts: tuple[str, ...]

    def folder(self, training: str, seed: int) -> Path:
        return self.output / "runs" / training / f"seed{seed}"

    def runs(self) -> list[tuple[str, int]]:
        """Seed by seed, so that whatever is done is paired; what tells least comes last."""
        seeds = range(1, self.seeds + 1)
        first = [t for t in self.study.trainings if t not in self.study.last]
        runs = [(training, seed) for seed in seeds for training in first]
        return runs + [(training, seed) for training in self.study.last for seed in seeds]

    def moments(self) -> dict[str, int]:
        """Title of an evaluation -> its iteration in metrics.json."""
        return {
            f"after {self.iterations // 2} steps": self.iterations // 2 - 1,
            f"after {self.iterations} steps": self.iterations,
        }

    def command(self, training: str, seed: int, opts: Sequence[str] = ()) -> tuple[str, ...]:
        """``opts``: of ``Study.prepare``."""
        own = ["SEED", str(seed), "OUTPUT_DIR", str(self.folder(training, seed))]
        own += ["TEST.EVAL_PERIOD", str(self.iterations // 2)]
        return (
            *(sys.executable, "-m", "mrcnn_ext.train", "--resume"),
            *("--config-file", str(self.study.configs / f"{training}.yaml")),
            *short_schedule(self.iterations, 50),
            *opts,
            *self.opts,
            *own,
        )


def evaluations(plan: Plan, training: str, seed: int) -> dict[int, dict[str, float]]:
    """Iteration -> results, of a training as far as it is."""
    file = plan.folder(training, seed) / "metrics.json"
    found: dict[int, dict[str, float]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # the last line of a killed process
            continue
        if "bbox/AP" in entry:  # mask AP is missing where nothing was found
            found[int(entry["iteration"])] = entry
    return found


def is_done(plan: Plan, training: str, seed: int) -> bool:
    return plan.iterations in evaluations(plan, training, seed)


def check_settings(plan: Plan) -> None:
    """
    Raises:
        StudyError: the folder holds trainings of other settings.
    """
    settings = {"iterations": plan.iterations, "opts": list(plan.opts)}
    file = plan.output / "settings.json"
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != settings:
            raise StudyError(
                f"{plan.output} holds trainings of {before}, not of {settings}. Choose another "
                "--output, or delete it."
            )
    write_json(file, settings)


def train(plan: Plan) -> None:
    """Run what is missing.

    Raises:
        StudyError: a training failed; the others have run to their end.
    """
    opts = plan.study.prepare(plan.output)
    jobs = [
        Job(
            name=f"{training}, seed {seed}",
            folder=plan.folder(training, seed),
            command=plan.command(training, seed, opts),
            iterations=plan.iterations,
            is_done=partial(is_done, plan, training, seed),
        )
        for training, seed in plan.runs()
    ]
    try:
        run_jobs(jobs, plan.jobs)
    except JobError as error:
        raise StudyError(str(error)) from error


def values(plan: Plan, row: str, measure: str, iteration: int) -> dict[int, float]:
    """Seed -> value in %, of the seeds that are there."""
    training, prefix = plan.study.rows[row]
    found = {}
    for seed in range(1, plan.seeds + 1):
        results = evaluations(plan, training, seed).get(iteration, {})
        value = results.get(prefix + measure, math.nan)
        if math.isfinite(value):
            found[seed] = value
    return found


def difference(first: dict[int, float], second: dict[int, float]) -> dict:
    """Of the seeds that both have: each seed's, their mean, and its 95 % interval by Student's t."""
    single = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    half = math.nan
    if len(single) > 1:
        half = float(stats.t.ppf(0.975, len(single) - 1)) * spread(single) / math.sqrt(len(single))
    return {"seeds": single, "mean": mean(single), "half": half}


def report(plan: Plan) -> str:
    """Write tables.md and results.json; the tables."""
    measures = plan.study.measures
    parts, numbers = [f"{plan.seeds} seeds, {plan.iterations} steps\n"], {}
    for title, iteration in plan.moments().items():
        table = {
            row: {m: values(plan, row, m, iteration) for m in measures} for row in plan.study.rows
        }
        pairs = {
            f"{a} - {b}": {m: difference(table[a][m], table[b][m]) for m in measures}
            for a, b in plan.study.pairs
        }
        numbers[title] = {"values": table, "differences": _without_nan(pairs)}
        head = ["%, mean ± standard deviation over seeds", *measures.values()]
        rows = [
            [row, *(_mean_spread(list(v.values())) for v in found.values())]
            for row, found in table.items()
        ]
        parts += [f"## {title[0].upper()}{title[1:]}\n", _table(head, rows)]
        head = ["difference of pairs, each seed's; mean ± 95 % interval", *measures.values()]
        rows = [[name, *map(_difference, found.values())] for name, found in pairs.items()]
        parts.append(_table(head, rows))
    text = "\n".join(parts)
    write_text(plan.output / "tables.md", text)
    write_json(plan.output / "results.json", numbers)
    return text


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return number_or_none(value) if isinstance(value, float) else value


def _mean_spread(found: Sequence[float]) -> str:
    if not found:
        return ""
    return f"{mean(found):.1f}" + (f" ± {spread(found):.1f}" if len(found) > 1 else "")


def _difference(found: dict) -> str:
    if not found["seeds"]:
        return ""
    single = ", ".join(f"{value:+.1f}" for value in found["seeds"])
    interval = "" if math.isnan(found["half"]) else f" ± {found['half']:.1f}"
    return f"{single}; {found['mean']:+.1f}{interval}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def study_main(
    study: Study, description: str, output: str, iterations: int, argv: Sequence[str] | None = None
) -> int:
    """The command of a study.

    Args:
        description: printed by --help.
        output: folder, unless --output names another.
        iterations: of each training, unless --iterations says otherwise.

    Returns:
        exit code: 0: done; 1: it failed, the message says where and what to do; 130: interrupted.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--iterations", type=int, default=iterations, help="of each training")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--only", choices=("train", "report"), help="one step (default: both)")
    parser.add_argument("opts", nargs="*", help="config overrides for all trainings, KEY VALUE …")
    args = parser.parse_args(argv)
    if min(args.seeds, args.jobs) < 1 or args.iterations < 2:
        parser.error("--seeds and --jobs must be 1 or more, --iterations 2 or more")
    plan = Plan(study, args.output, args.seeds, args.iterations, args.jobs, tuple(args.opts))
    try:
        check_settings(plan)
        if args.only != "report":
            train(plan)
        if args.only != "train":
            print(report(plan))
    except StudyError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    except (Stopped, KeyboardInterrupt):
        print("\nInterrupted; the same command goes on where it was.", file=sys.stderr)
        return 130
    return 0
