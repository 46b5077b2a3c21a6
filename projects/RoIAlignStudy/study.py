#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What RoIAlign is for, shown: where each pooler looks, and paired trainings with each.

    python projects/RoIAlignStudy/study.py [--output output/roi_align_study] [--seeds 3]
        [--iterations 400] [--only shift|train|swap|report] [KEY VALUE …]

Written to the folder: results.json (everything), tables.md, shift_response.png,
paired_differences.png. Trainings that are there are not repeated, so an interrupted study goes on;
--only report makes tables of what is there so far.

Exit code 0: done; 1: it failed, the message says where and what to do; 130: interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from roi_align_study import BASELINE
from roi_align_study.schedule import Plan, StudyError, run_all

STEPS = ("shift", "train", "swap", "report")


def _shift(plan: Plan) -> None:
    from roi_align_study.shift import study_shift

    study_shift(plan.output)


def _train(plan: Plan) -> None:
    def command(pooler_type: str, seed: int) -> list[str]:
        own = [sys.executable, str(Path(__file__).resolve()), "--output", str(plan.output)]
        own += ["--iterations", str(plan.iterations), "--run", f"{pooler_type}:{seed}"]
        return [*own, *plan.opts]

    run_all(plan, command)


def _swap(plan: Plan) -> None:
    from roi_align_study.training import run_folder, swap

    for seed in range(1, plan.seeds + 1):
        folder = run_folder(plan.output, BASELINE, seed)
        if (folder / "result.json").is_file() and not (folder / "swapped.json").is_file():
            print(f"other poolers in the model of {BASELINE} seed {seed}", flush=True)
            swap(seed, plan.iterations, plan.output, plan.opts)


def _report(plan: Plan) -> None:
    from roi_align_study.report import write_report

    print(write_report(plan))


def _run_one(plan: Plan, name: str) -> None:
    from roi_align_study.training import train

    pooler_type, seed = name.split(":")
    train(pooler_type, int(seed), plan.iterations, plan.output, plan.opts)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/roi_align_study"))
    parser.add_argument("--seeds", type=int, default=3, help="trainings with each pooler")
    parser.add_argument("--iterations", type=int, default=400, help="of each training")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--only", choices=STEPS, help="one step (default: all)")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # one training, in this process
    parser.add_argument("opts", nargs="*", help="config overrides for all trainings, KEY VALUE …")
    args = parser.parse_args(argv)
    if min(args.seeds, args.iterations, args.jobs) < 1:
        parser.error("--seeds, --iterations and --jobs must be 1 or more")
    plan = Plan(args.output, args.seeds, args.iterations, args.jobs, tuple(args.opts))
    try:
        if args.run:
            _run_one(plan, args.run)
            return 0
        plan.output.mkdir(parents=True, exist_ok=True)
        for step, function in zip(STEPS, (_shift, _train, _swap, _report)):
            if args.only in (None, step):
                function(plan)
    except StudyError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on with what is missing.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
