# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Count and measure a data set: classes, sizes, shapes, overlaps, images, anchors, pixel values.

    python -m mrcnn_ext.data.stats mrcnn_ext_shapes_train --out stats
    python -m mrcnn_ext.data.stats train.json --images images --min-size 480 --max-size 800

--out FOLDER gets stats.json, stats.txt and stats.png. Numbers of a kind are shown as least … 5 %
[median] 95 % … greatest.

Exit code 0: done; 2: wrong usage, unreadable input.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...coco.read import check_entries, read_coco
from ...command_line import (
    add_import_option,
    add_output_option,
    command_parser,
    exit_code_of,
    import_all,
    say,
    stage_progress,
)
from ...errors import DataError
from ...files import write_text
from ...page import render, staged_folder
from ..registered import find_coco
from .measure import measure
from .picture import statistics_figure
from .pixels import pixel_statistics
from .summary import lines, summarize

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.data.stats", __doc__)
    add = parser.add_argument
    add("data", metavar="NAME_OR_JSON", help="a registered data set, or a COCO json")
    add("--images", metavar="FOLDER", help="the images of a json, for pixel values")
    add_output_option(parser, "--out", type=Path, help="a folder for json, text and picture")
    add("--min-size", type=int, default=800, help="shorter side of a training image (default: 800)")
    add("--max-size", type=int, default=1333, help="longer side at most (default: 1333)")
    add("--format", choices=("BGR", "RGB", "L"), default="BGR", help="INPUT.FORMAT (default: BGR)")
    add("--bands", metavar="LIST", help="MRCNN_EXT.DATA.BANDS, such as 0,1,2,7 (default: as Detectron2 "
        "reads pictures; of others all bands)")  # fmt: skip
    add("--pixels", type=int, default=500, metavar="N",
        help="images to read for pixel values, 0: none, -1: all (default: 500)")  # fmt: skip
    add_import_option(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: of the process); return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not 0 < args.min_size <= args.max_size:
        parser.error(
            "--min-size and --max-size: expected two positive numbers, the first not larger"
        )
    try:
        args.bands = None if args.bands is None else [int(band) for band in args.bands.split(",")]
        if args.bands is not None and (min(args.bands) < 0 or len({*args.bands}) < len(args.bands)):
            raise ValueError
    except ValueError:
        parser.error(f"--bands is {args.bands}; expected different numbers from 0, such as 0,1,2,7")
    return exit_code_of("stats", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    import_all(args.imports)
    files = find_coco(args.data)
    content = read_coco(files.json_file, annotated=False)
    check_entries(content, files.json_file)
    found = measure(content, files.json_file)
    summary = summarize(found, args.min_size, args.max_size)
    root = args.images or files.image_root
    if root is not None and args.pixels:
        if not os.path.isdir(root):
            raise DataError(f"there is no folder of images {root}.")
        paths = [os.path.join(root, str(image.get("file_name"))) for image in content["images"]]
        with stage_progress() as progress:
            summary["pixels"] = pixel_statistics(
                paths,
                image_format=args.format,
                bands=args.bands,
                most=None if args.pixels < 0 else args.pixels,
                progress=progress,
            )
    text = _text(args.data, summary)
    say(text)
    if args.out is not None:
        with staged_folder(args.out) as folder:
            write_text(folder / "stats.txt", text + "\n")
            write_text(folder / "stats.json", json.dumps(summary, indent=1, ensure_ascii=False))
            (folder / "stats.png").write_bytes(
                render(lambda: statistics_figure(found, summary), "light")
            )
        say(f"written to {args.out}: stats.txt, stats.json, stats.png")
    if args.images is not None:
        say(f"next: python -m mrcnn_ext.data.split {args.data} --images {args.images}")
    return 0


def _text(name: str, summary: dict) -> str:
    table = Table(box=None, pad_edge=False)
    for column in ("class", "objects", "share", "images", "median size"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for entry in sorted(summary["classes"], key=lambda c: -c["objects"]):
        size = "" if entry["median_size"] is None else f"{entry['median_size']:.1f}"
        counts = str(entry["objects"]), f"{entry['share']:.1%}", str(entry["images"]), size
        table.add_row(entry["name"], *counts)
    file = io.StringIO()
    Console(file=file, width=100, highlight=False, markup=False).print(table)
    return "\n".join([name, *lines(summary), "", file.getvalue().rstrip()])


if __name__ == "__main__":
    sys.exit(main())
