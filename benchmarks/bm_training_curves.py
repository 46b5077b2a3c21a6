#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Loss curves of paired trainings with and without the keys of MRCNN_EXT.COMPUTE.

    python benchmarks/bm_training_curves.py [--config-file NAME] [--steps 200] [--seeds 0 1 2]
        [--threads 1] [--settings NAME …] [--work FOLDER] [--out FOLDER] [--opts KEY VALUE …]

Detectron2's own, unmodified train_net.py trains each setting with each seed, one after the other, on
the CPU: equal seeds mean equal weights and samples. Nothing is evaluated. Curves are those of
Detectron2's metrics.json: every 20 steps the median of the last 20. A run that ended is not repeated,
so the same command goes on where it was stopped. Written: training_curves.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path

from common import machine

from mrcnn_ext.child_processes import end_children, start_child
from mrcnn_ext.coco.read import read_json
from mrcnn_ext.config.load import get_config_file
from mrcnn_ext.config.schedule import short_schedule
from mrcnn_ext.demo import find_tool
from mrcnn_ext.files import write_json, write_text

SETTINGS: dict[str, list[str]] = {
    "as it was": [],
    "channels_last": ["MRCNN_EXT.COMPUTE.CHANNELS_LAST", "True"],
    "recomputed backbone": ["MRCNN_EXT.COMPUTE.CHECKPOINT_BACKBONE", "True"],
}
FIRST = next(iter(SETTINGS))
_DONE = "curve.json"


def train(folder: Path, args: argparse.Namespace, keys: list[str], seed: int) -> list[dict]:
    """One training; returns the lines of its metrics.json that have losses."""
    if (folder / _DONE).is_file():
        return read_json(folder / _DONE)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = ["OUTPUT_DIR", str(folder), "SEED", str(seed), "MODEL.DEVICE", "cpu"]
    options += ["DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0", *short_schedule(args.steps, 100)]
    options += ["SOLVER.CHECKPOINT_PERIOD", str(args.steps + 1), *args.opts, *keys]
    command = [sys.executable, str(find_tool("train_net.py")), "--config-file", args.config_file]
    env = {**os.environ, "DETECTRON2_ENV_MODULE": "mrcnn_ext.d2_env"}
    env["OMP_NUM_THREADS"] = str(args.threads)
    with open(folder / "train.log", "w", encoding="utf-8") as log:
        child = start_child([*command, *options], env=env, stdout=log, stderr=log)
        try:
            code = child.wait()
        finally:
            end_children([child])
    if code:
        raise SystemExit(f"train_net.py failed, see {folder / 'train.log'}")
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    curve = [line for line in map(json.loads, lines) if "total_loss" in line]
    (folder / "model_final.pth").unlink()
    write_json(folder / _DONE, curve)
    return curve


def losses(curve: list[dict]) -> list[float]:
    return [line["total_loss"] for line in curve]


def summary(curves: dict[str, dict[int, list[dict]]], seeds: list[int]) -> dict[str, dict]:
    """Of each setting: the loss in the end, and how far the curves are from those of the first."""
    first = {seed: losses(curves[FIRST][seed]) for seed in seeds}
    points = range(len(first[seeds[0]]))
    spread = [_deviation([first[seed][i] for seed in seeds]) for i in points]
    rows = {}
    for name, of_seed in curves.items():
        values = {seed: losses(of_seed[seed]) for seed in seeds}
        differences = [[values[seed][i] - first[seed][i] for i in points] for seed in seeds]
        last = [d[-1] for d in differences]
        rows[name] = {
            "last loss": {seed: values[seed][-1] for seed in seeds},
            "mean last loss": statistics.mean(values[seed][-1] for seed in seeds),
            "mean difference of the last loss": statistics.mean(last),
            "deviation of that difference": _deviation(last),
            "mean difference over the curve": statistics.mean(map(statistics.mean, differences)),
            "largest difference of a point": max(abs(x) for d in differences for x in d),
            "deviation over seeds, mean of the points": statistics.mean(spread),
        }
    return rows


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(rows: dict[str, dict]) -> str:
    columns = (
        "mean last loss",
        "mean difference of the last loss",
        "deviation of that difference",
        "mean difference over the curve",
        "largest difference of a point",
        "deviation over seeds, mean of the points",
    )
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(f"{row[column]:.3g}" for column in columns) + " |"
        for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config-file", default="Shapes/mask_rcnn_Lite0_FPN.yaml", help="path, or name here")
    add("--steps", type=int, default=200)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--threads", type=int, default=1)
    add("--settings", nargs="+", choices=[*SETTINGS], default=[*SETTINGS])
    add("--work", type=Path, default=Path("output/benchmarks/curves"), help="of the trainings")
    add("--out", type=Path, default=Path("output/benchmarks"))
    add("--opts", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    named = args.config_file
    if not Path(named).is_file():
        args.config_file = get_config_file(named)
    args.settings = [FIRST, *(name for name in args.settings if name != FIRST)]
    curves: dict[str, dict[int, list[dict]]] = {name: {} for name in args.settings}
    for seed in args.seeds:
        for name in args.settings:
            folder = (args.work / f"{name.replace(' ', '_')}_{seed}").resolve()
            curves[name][seed] = train(folder, args, SETTINGS[name], seed)
            print(f"seed {seed}, {name}: {losses(curves[name][seed])[-1]:.4f}", flush=True)
    rows = summary(curves, args.seeds)
    args.out.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": machine(),
        "setting": {
            "config": named,
            "steps": args.steps,
            "seeds": args.seeds,
            "threads": args.threads,
            "opts": args.opts,
        },
        "results": rows,
        "curves": {
            name: {seed: losses(curve) for seed, curve in of_seed.items()}
            for name, of_seed in curves.items()
        },
        "steps of the points": [line["iteration"] + 1 for line in curves[FIRST][args.seeds[0]]],
    }
    write_json(args.out / "training_curves.json", report)
    write_text(args.out / "training_curves.md", table(rows))
    print(table(rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
