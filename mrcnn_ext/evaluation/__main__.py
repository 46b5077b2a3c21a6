# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Evaluate a file of predictions.

    python -m mrcnn_ext.evaluation DATASET RESULTS.json [--tasks bbox segm boundary …] [--json FILE]
    python -m mrcnn_ext.evaluation DATASET RESULTS.json --thresholds FILE [--precision 0.9]

The second form also finds a score threshold for each class, which predict --thresholds FILE uses.

DATASET is a COCO json or the name of a registered data set. RESULTS.json is what an evaluator wrote,
coco_instances_results.json, or mrcnn_ext.predict (--ids-from DATASET): coco_results.json or .jsonl.
Exit code 0: evaluated; 1: a file cannot be used, which the message says; 2: wrong usage.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from ..command_line import add_import_option, command_parser, import_all
from ..errors import ConfigError, DataError
from ..files import write_json
from .matching import BACKENDS
from .results_file import evaluate_results_file
from .settings import EvaluationSettings
from .show_thresholds import print_thresholds
from .tasks import TASKS
from .thresholds import find_thresholds, write_thresholds

# Metrics in a row: their names and values fit into 80 columns.
_COLUMNS, _WIDTH = 5, 14


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("mrcnn_ext.evaluation", __doc__)
    parser.add_argument("dataset", help="COCO json or registered data set")
    parser.add_argument("results", help="json of predictions")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help=f"of {', '.join(TASKS)}, and those you import (default: every task whose fields the file "
        "has)",
    )
    parser.add_argument(
        "--max-dets", type=int, help="detections per image (default: no fewer than all)"
    )
    parser.add_argument(
        "--boundary-dilation",
        type=float,
        default=0.02,
        help="width of the boundary as a fraction of the image's diagonal (default: 0.02)",
    )
    parser.add_argument("--sigmas", type=float, nargs="+", default=(), help="of the keypoints")
    parser.add_argument(
        "--pck-reference",
        nargs=2,
        default=(),
        metavar="KEYPOINT",
        help="whose distance is the unit",
    )
    parser.add_argument(
        "--boxes-only",
        action="store_true",
        help="objects may have a box and no mask: what is measured on masks leaves them out",
    )
    parser.add_argument(
        "--score-thresholds",
        type=float,
        nargs="+",
        default=EvaluationSettings.score_thresholds,
        metavar="SCORE",
        help="at which false positives are counted (default: 0.3 0.5 0.7)",
    )
    parser.add_argument("--lvis-style", action="store_true", help="LVIS's rules")
    parser.add_argument(
        "--lvis-max-per-class", type=int, default=0, help="AP fixed; 10000 in the paper"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="library that matches (default: auto)"
    )
    parser.add_argument(
        "--thresholds",
        metavar="FILE",
        help="find a score threshold for each class, too, and the confusion matrix at them; both go "
        "to FILE",
    )
    parser.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="with --thresholds: a wanted precision in 0 to 1 (default: the best F1)",
    )
    add_import_option(parser, "data sets or tasks")
    parser.add_argument("--json", help="write the numbers to this file, too")
    # What is left are the settings, by name.
    rules = vars(parser.parse_args(argv))
    dataset, results_file, json_file = (rules.pop(k) for k in ("dataset", "results", "json"))
    thresholds, precision = rules.pop("thresholds"), rules.pop("precision")
    if precision is not None and not thresholds:
        parser.error("--precision goes with --thresholds FILE")
    try:
        import_all(rules.pop("imports"))
        results = evaluate_results_file(dataset, results_file, **rules)
        if json_file:
            _write(json_file, results)
        if thresholds:
            points, names = find_thresholds(
                dataset, results_file, precision=precision, boxes_only=rules["boxes_only"]
            )
            write_thresholds(thresholds, points, names)
    except (ConfigError, DataError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    _print(results)
    if thresholds:
        print_thresholds(points, names)
    return 0


def _write(json_file: str, results: dict) -> None:
    try:
        write_json(json_file, results)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"--json {json_file} cannot be written: {reason}.") from error


def _print(results: dict[str, dict[str, float]]) -> None:
    console = Console(highlight=False)
    for task, metrics in results.items():
        console.print(f"[bold]{task}")
        plain = [(key, value) for key, value in metrics.items() if "-" not in key]
        for start in range(0, len(plain), _COLUMNS):
            table = Table(box=None, padding=(0, 1, 0, 0))
            for key, _ in plain[start : start + _COLUMNS]:
                table.add_column(key, justify="right", min_width=_WIDTH, no_wrap=True)
            table.add_row(*(f"{value:.2f}" for _, value in plain[start : start + _COLUMNS]))
            console.print(table)
        for key, value in metrics.items():
            if "-" in key:
                console.print(f"  {value:6.2f}  {key}", markup=False)
        console.print()


if __name__ == "__main__":
    sys.exit(main())
