# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Divide a COCO json into parts, each with its share of images and classes, or into folds.

    python -m mrcnn_ext.data.split data.json --images images --parts train=.8 val=.2 --by class
    python -m mrcnn_ext.data.split data.json --by group --group-key "file=(video\\d+)_"
    python -m mrcnn_ext.data.split data.json --by class --group-key folder --folds 5

It writes a json for each part and split.yaml, a config that names them, to a folder. What has the same
group key is never divided, nor are images of the same name, nor (with --images) files of equal content.

Exit code 0: done; 1: with --strict, a part lacks a class; 2: wrong usage, unreadable input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Hashable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...coco.read import check_entries, read_coco
from ...command_line import add_output_option, command_parser, exit_code_of, say
from ...errors import DataError
from ...files import write_text
from ...messages import shorten
from ...page.files import staged_folder
from .divide import WAYS, Division, divide, group_keys, same_content
from .files import part_content, yaml_text

__all__ = ["main"]

_SLACK = 1e-3  # by which shares may miss 1


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.data.split", __doc__)
    add = parser.add_argument
    add("json", metavar="DATA.json", type=Path, help="a COCO json")
    add("--parts", nargs="+", metavar="NAME=SHARE", default=None,
        help="parts and their shares, which add up to 1 (default: train=.8 val=.2)")  # fmt: skip
    add("--folds", type=int, metavar="K", help="in place of parts: K pairs of train and val")
    add("--by", choices=WAYS, default=None,
        help="random; class: each part gets its share of each class; group: random, of whole groups "
        "(default: class, or group with --group-key)")  # fmt: skip
    add("--group-key", metavar="KEY",
        help="folder, file=REGEX (its group 1) or attribute=NAME: what is never divided")  # fmt: skip
    add("--images", type=Path, metavar="FOLDER", help="the images (default: beside the json)")
    add("--seed", type=int, default=0, help="equal seeds divide alike (default: 0)")
    add_output_option(parser, "--out", type=Path, help="folder to write to (default: DATA_split)")
    add("--strict", action="store_true", help="exit with 1 if a part lacks a class")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: of the process); return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.folds is not None and args.parts is not None:
        parser.error("--folds and --parts: give one of them")
    if args.folds is not None and args.folds < 2:
        parser.error(f"--folds is {args.folds}, expected 2 or more")
    if args.by == "group" and args.group_key is None:
        parser.error("--by group: say with --group-key what a group is")
    if args.seed < 0:
        parser.error(f"--seed is {args.seed}, expected 0 or more")
    args.by = args.by or ("class" if args.group_key is None else "group")
    return exit_code_of("split", lambda: _run(args))


def _shares(parts: list[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in parts:
        name, _, value = part.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not name.isidentifier() or name in shares or not 0 < share <= 1:
            raise DataError(
                f"--parts has {part!r}; expected NAME=SHARE with different names of letters and "
                "digits, and shares in 0 … 1, such as train=.8"
            )
        shares[name] = share
    if abs(sum(shares.values()) - 1) > _SLACK:
        raise DataError(f"--parts: the shares add up to {sum(shares.values()):g}, expected 1.")
    return shares


def _run(args: argparse.Namespace) -> int:
    content = read_coco(args.json, annotated=False)
    check_entries(content, str(args.json))
    if args.images is not None and not args.images.is_dir():
        raise DataError(f"there is no folder of images {args.images}.")
    keys: list[list[Hashable]] = []
    if args.group_key is not None:
        keys.append(group_keys(content, args.group_key, str(args.json)))
    if args.images is not None:
        same, number = same_content(content, args.images)
        keys.append(same)
        if number:
            say(f"note: {number} images have the content of another one; they stay together")
    shares = (
        {f"fold{i}": 1 / args.folds for i in range(1, args.folds + 1)}
        if args.folds
        else _shares(args.parts or ["train=.8", "val=.2"])
    )
    division = divide(content, shares, by=args.by, keys=keys, seed=args.seed)
    out = args.out or args.json.with_name(f"{args.json.stem}_split")
    absent = _report(content, division)
    _write(args, content, division, out)
    return int(args.strict and absent)


def _write(args: argparse.Namespace, content: dict, division: Division, out: Path) -> None:
    images = (args.images or args.json.parent).resolve()
    stem = "".join(c if c.isalnum() else "_" for c in args.json.stem)
    if args.folds:
        sets = {}
        for name, ids in zip(division.names, division.images):
            held = set(ids)
            sets[f"{name}_train"] = [i["id"] for i in content["images"] if i["id"] not in held]
            sets[f"{name}_val"] = ids
        pairs = {f"{n}.yaml": (f"{n}_train", f"{n}_val") for n in division.names}
    else:
        sets = dict(zip(division.names, division.images))
        train = "train" if "train" in sets else division.names[0]
        others = [name for name in division.names if name != train] or [train]
        pairs = {"split.yaml": (train, "val" if "val" in others else others[0])}
    for name in sets:
        target = out / f"{name}.json"
        if target.exists() and target.samefile(args.json):
            raise DataError(f"--out {out}: {target} is the data set itself; name another folder.")
    with staged_folder(out) as folder:
        for name, ids in sets.items():
            text = json.dumps(part_content(content, ids), ensure_ascii=False)
            write_text(folder / f"{name}.json", text + "\n")
        for file, (train, test) in pairs.items():
            used = [train, test] if args.folds else list(sets)
            files = {f"{stem}_{name}": (out / f"{name}.json").resolve() for name in used}
            text = yaml_text(files, f"{stem}_{train}", f"{stem}_{test}", images)
            write_text(folder / file, text)
    say(f"written to {out}: {shorten([*(f'{name}.json' for name in sets), *pairs], 12)}")
    say(f"next: python -m mrcnn_ext.data.config {out / next(iter(pairs))} --out config.yaml")


def _report(content: dict, division: Division) -> bool:
    """Print the classes of each part; return whether a part lacks one that there is."""
    part_of = {image: index for index, ids in enumerate(division.images) for image in ids}
    objects = Counter((part_of[a["image_id"]], a["category_id"]) for a in content["annotations"])
    shown = {
        (part_of[a["image_id"]], a["category_id"], a["image_id"]) for a in content["annotations"]
    }
    images = Counter((part, category) for part, category, _ in shown)
    table = Table(title="objects (images) of each class", title_justify="left")
    table.add_column("")
    for name in division.names:
        table.add_column(name, justify="right")
    table.add_row("images", *(str(len(ids)) for ids in division.images))
    absent = []
    parts = range(len(division.names))
    for category in content["categories"]:
        key, name = category["id"], str(category.get("name", category["id"]))
        table.add_row(escape(name), *(f"{objects[p, key]} ({images[p, key]})" for p in parts))
        if any(objects[p, key] for p in parts):
            absent += [(division.names[p], name) for p in parts if not objects[p, key]]
    Console(highlight=False, soft_wrap=True).print(table)
    if division.units < len(content["images"]):
        say(f"{len(content['images'])} images in {division.units} groups that stay together")
    for part in division.names:
        names = [name for where, name in absent if where == part]
        if names:
            say(f"warning: {part} has no object of {shorten(names)}")
    return bool(absent)


if __name__ == "__main__":
    sys.exit(main())
