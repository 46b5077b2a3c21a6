# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Convert annotations of other tools to COCO json, and back.

    python -m mrcnn_ext.data.convert yolo data.yaml --out data.json
    python -m mrcnn_ext.data.convert labelme folder --out data.json
    python -m mrcnn_ext.data.convert via project.json --images images --out data.json
    python -m mrcnn_ext.data.convert voc VOC2012 --out data.json
    python -m mrcnn_ext.data.convert masks masks --images images --out data.json
    python -m mrcnn_ext.data.convert cvat annotations.xml --images images --out data.json
    python -m mrcnn_ext.data.convert label-studio export.json --images images --out data.json
    python -m mrcnn_ext.data.convert --to yolo|labelme|voc|masks data.json --out folder

What could not be kept is listed at the end, and written to OUT.lost.json.

Exit code 0: done; 1: with --strict, something was lost; 2: wrong usage, unreadable input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...command_line import add_output_option, command_parser, exit_code_of, say, stage_progress
from .convert import convert_from_coco, convert_to_coco, lost_file
from .lost import Lost
from .options import Options
from .readers import READERS
from .readers.masks import KINDS
from .writers import WRITERS

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.data.convert", __doc__)
    add = parser.add_argument
    add("format", nargs="?", metavar="FORMAT", help=f"what SOURCE is: {', '.join(READERS)}")
    add("source", metavar="SOURCE", help="file or folder; with --to: a COCO json")
    add("--to", choices=list(WRITERS), help="write this format from a COCO json")
    add_output_option(
        parser, "--out", required=True, help="the COCO json to write; with --to: a new folder"
    )
    add(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="the images (default: where the format has them)",
    )
    add("--classes", type=_names, default=[], metavar="A,B,…",
        help="class names in the order of their ids, where the format has no such list")  # fmt: skip
    add("--keypoints", type=_names, default=[], metavar="A,B,…",
        help="names of the keypoints in their order, where the format has no such list")  # fmt: skip
    add("--boxes-as-masks", action="store_true", help="rectangles that were drawn are masks, too")
    add("--strict", action="store_true", help="exit with 1 if anything was lost")
    group = parser.add_argument_group("yolo, voc")
    group.add_argument("--part", metavar="NAME", help="take one part, such as train")
    group.add_argument("--voc-origin", type=int, choices=(0, 1),
                       help="the number of the first pixel (default: told by the boxes)")  # fmt: skip
    group = parser.add_argument_group("via")
    group.add_argument("--class-attribute", metavar="KEY", help="the region attribute of the class")
    group.add_argument("--group-attribute", metavar="KEY",
                       help="regions with the same value are one object")  # fmt: skip
    group = parser.add_argument_group("masks")
    group.add_argument(
        "--kind", choices=KINDS, help="what the pictures are (default: told by them)"
    )
    group.add_argument("--class-divisor", type=int, metavar="N",
                       help="value // N is the number of the class in --classes, from 0")  # fmt: skip
    group.add_argument("--class-pattern", metavar="REGEX",
                       help="finds the class in a mask's path: (?P<class>…)")  # fmt: skip
    group.add_argument("--ignore", type=int, action="append", default=[], metavar="VALUE",
                       help="a value that belongs to no object; may be given again")  # fmt: skip
    return parser


def _names(value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(
            f"{value!r}: expected different names, separated by commas"
        )
    return names


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: of the process); return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.class_divisor is not None and (args.class_divisor < 2 or not args.classes):
        parser.error("--class-divisor: expected 2 or more, and --classes")
    if args.to is None and args.format is None:
        parser.error(f"give a FORMAT: {', '.join(READERS)}; or --to with a COCO json")
    if args.to is not None and args.format is not None:
        parser.error("with --to, give the COCO json only")
    if args.to is None and args.format not in READERS:
        parser.error(f"FORMAT is {args.format!r}; expected one of {', '.join(READERS)}")
    return exit_code_of("convert", lambda: _to(args) if args.to else _from(args))


def _from(args: argparse.Namespace) -> int:
    names = Options.__dataclass_fields__.keys() & vars(args).keys()
    with stage_progress() as progress:
        options = Options(**{name: getattr(args, name) for name in names}, progress=progress)
        content, builder = convert_to_coco(args.format, args.source, args.out, options)
    annotations = content["annotations"]
    counts = ", ".join(f"{count} {what}" for what, count in builder.counts.items() if count)
    say(
        f"{args.out}: {len(content['images'])} images, {len(annotations)} objects of "
        f"{len(content['categories'])} classes ({counts or 'no objects'})"
    )
    for note in builder.notes:
        say(f"note: {note}")
    if builder.counts["boxes only"] and builder.counts["boxes only"] < len(annotations):
        say("note: some objects have boxes only, others masks")
    _say_lost(builder.lost, args.out)
    root = None if builder.folder is None else builder.folder.root
    folder = args.images or root or "FOLDER"
    say(f"next: python -m mrcnn_ext.data.check --json-file {args.out} --image-root {folder}")
    return int(args.strict and bool(builder.lost))


def _to(args: argparse.Namespace) -> int:
    with stage_progress() as progress:
        source, target = convert_from_coco(
            args.to, args.source, args.out, images=args.images, progress=progress
        )
    say(f"{args.out}: {len(source.images)} images of {len(source.names)} classes as {args.to}")
    for note in target.notes:
        say(f"note: {note}")
    _say_lost(target.lost, args.out)
    return int(args.strict and bool(target.lost))


def _say_lost(lost: Lost, out: str) -> None:
    lines = lost.lines()
    if lines:
        say(f"not kept (all counts: {lost_file(out)}):")
        for line in lines:
            say(f"  {line}")
    else:
        say("nothing was lost")


if __name__ == "__main__":
    sys.exit(main())
