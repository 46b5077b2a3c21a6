# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Report on COCO result files: scores, curves, kinds of errors, worst and best images.

    python -m mrcnn_ext.report --dataset mrcnn_ext_shapes_val \
        --results run=coco_instances_results.json --out report
    python -m mrcnn_ext.report --annotations instances.json --images val/ \
        --results before=a.json after=b.json --out report

Written to FOLDER: report.html (one file that needs nothing else, and no network), report.json (the
numbers) and report_pictures/ (the pictures as PNG). Differences are to the first result file.

Exit code 0: done; 2: wrong usage or unusable input, nothing is written; 130: interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..command_line import (
    add_import_option,
    add_output_option,
    command_parser,
    import_all,
    stage_progress,
)
from ..errors import ConfigError, DataError
from .build import make_report


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.report", __doc__)
    add = parser.add_argument
    add("--dataset", metavar="NAME", help="a registered data set in COCO's format")
    add("--annotations", metavar="FILE", help="instead of it, COCO annotations")
    add("--images", metavar="FOLDER", help="of the images of --annotations")
    add("--results", nargs="+", required=True, metavar="NAME=FILE",
        help="results in COCO's format, such as Detectron2's coco_instances_results.json")  # fmt: skip
    add_output_option(parser, "--out", required=True, type=Path, metavar="FOLDER")
    add("--task", choices=("bbox", "segm"), help="default: segm if all files have masks")
    add("--boxes-only", action="store_true",
        help="objects may have a box and no mask: what is said of masks leaves them out")  # fmt: skip
    add("--examples", type=int, default=3, metavar="N",
        help="draw the N worst and the N best images (default: 3)")  # fmt: skip
    add("--score-threshold", type=float, metavar="S",
        help="of what is drawn (default: for each file the one of the highest F1)")  # fmt: skip
    add("--oks-sigmas", type=float, nargs="+", metavar="S",
        help="of the keypoints (default: the categories', or COCO's of persons)")  # fmt: skip
    add("--title", help="of the page")
    add_import_option(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: of the process); return the exit code."""
    args = _parser().parse_args(argv)
    try:
        results = _named_files(args.results)
        import_all(args.imports)
        with stage_progress() as progress:
            page = make_report(
                results=results,
                out=args.out,
                dataset=args.dataset,
                annotations=args.annotations,
                images=args.images,
                task=args.task,
                boxes_only=args.boxes_only,
                examples=args.examples,
                score_threshold=args.score_threshold,
                oks_sigmas=args.oks_sigmas,
                title=args.title,
                progress=progress,
            )
    except (ConfigError, DataError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    _print_summary(page)
    return 0


def _named_files(texts: list[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name.strip() and equals and file):
            raise ConfigError(f"--results '{text}': expected NAME=FILE.")
        if name in out:
            raise ConfigError(f"--results: the name '{name}' is given twice.")
        out[name] = file
    return out


def _print_summary(page: Path) -> None:
    content = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    table = Table(box=None, pad_edge=False)
    table.add_column("mask" if content["task"] == "segm" else "box")
    names = ("AP", "AP50", "AP75", "AR")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("detections", justify="right")
    for entry in content["results"]:
        values = ["-" if entry[n] is None else f"{100 * entry[n]:.1f}" for n in names]
        table.add_row(escape(entry["name"]), *values, str(entry["detections"]))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for note in content["notes"]:
        console.print(note, markup=False)
    console.print(str(page), markup=False)


if __name__ == "__main__":
    with warnings.catch_warnings():  # of the libraries
        warnings.simplefilter("ignore")
        sys.exit(main())
