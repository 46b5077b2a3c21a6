# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Evaluate a file of predictions.

    python -m mrcnn_ext.evaluation DATASET RESULTS.json [--tasks bbox segm boundary …] [--json FILE]

DATASET is a COCO json or the name of a registered data set. RESULTS.json is what an evaluator wrote,
coco_instances_results.json, or mrcnn_ext.predict (--ids-from DATASET): coco_results.json or .jsonl.
"""

from __future__ import annotations

import argparse
import sys

from ..errors import ConfigError, DataError
from ..files import write_json
from .matching import BACKENDS
from .results_file import evaluate_results_file
from .tasks import TASKS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn_ext.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help="COCO json or registered data set")
    parser.add_argument("results", help="json of predictions")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=tuple(TASKS),
        help="default: every task whose fields the file has",
    )
    parser.add_argument(
        "--max-dets", type=int, help="detections per image (default: no fewer than all)"
    )
    parser.add_argument("--boundary-dilation", type=float, default=0.02)
    parser.add_argument("--sigmas", type=float, nargs="+", default=(), help="of the keypoints")
    parser.add_argument(
        "--pck-reference",
        nargs=2,
        default=(),
        metavar="KEYPOINT",
        help="whose distance is the unit",
    )
    parser.add_argument("--lvis-style", action="store_true", help="LVIS's rules")
    parser.add_argument(
        "--lvis-max-per-class", type=int, default=0, help="AP fixed; 10000 in the paper"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--json", help="write the numbers to this file, too")
    # What is left are the settings, by name.
    rules = vars(parser.parse_args(argv))
    dataset, results_file, json_file = (rules.pop(k) for k in ("dataset", "results", "json"))
    try:
        results = evaluate_results_file(dataset, results_file, **rules)
    except (ConfigError, DataError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 1
    _print(results)
    if json_file:
        write_json(json_file, results)
    return 0


def _print(results: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for task, metrics in results.items():
        table = Table(title=task, title_justify="left", title_style="bold", box=None)
        plain = {key: value for key, value in metrics.items() if "-" not in key}
        for key in plain:
            table.add_column(key, justify="right")
        table.add_row(*(f"{value:.2f}" for value in plain.values()))
        console.print(table)
        for key, value in metrics.items():
            if "-" in key:
                console.print(f"  {value:6.2f}  {key}", markup=False)
        console.print()


if __name__ == "__main__":
    sys.exit(main())
