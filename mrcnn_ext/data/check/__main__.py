# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find what is wrong with a data set, and with a config for it, before training does.

    python -m mrcnn_ext.data.check my_train my_val --import my_package.datasets
    python -m mrcnn_ext.data.check --json-file train.json --image-root images
    python -m mrcnn_ext.data.check --config-file config.yaml

Exit code 0: no errors; 1: errors (with --strict: or warnings); 2: wrong usage, unreadable input.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from detectron2.config import CfgNode
from rich.console import Console
from rich.markup import escape

from ...coco.read import read_coco
from ...command_line import add_import_option, command_parser, import_all, stage_progress
from ...config.bands import check_bands
from ...config.check import check_names
from ...config.check_class_weights import check_class_weights
from ...config.check_data import check_data
from ...config.load import load_config
from ...errors import ConfigError, DataError
from ...files import write_json
from .. import register_datasets
from ..image_file import ImageReader
from ..registered import CocoFiles, registered_coco
from .against_config import MASK_IS_MISSING, check_with_config, takes_boxes_only
from .between import DatasetSummary, compare_datasets
from .dataset import check_coco, check_file, count_coco
from .problem import Problem

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.data.check", __doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="data sets registered in Detectron2")
    add("--json-file", help="a COCO json that is not registered")
    add("--image-root", help="the folder of its images")
    add("--config-file", help="a yaml config to compare with; its data sets are the default NAMEs")
    add_import_option(parser)
    add("--no-decode", action="store_true", help="look at the headers of the images only")
    add("--json", metavar="OUT", help="write everything found to this file")
    add("--max-shown", type=int, default=20, metavar="N",
        help="problems printed of each kind; 0: all (default: 20)")  # fmt: skip
    add("--strict", action="store_true", help="exit with 1 on warnings, too")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: of the process); return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.json_file is None) != (args.image_root is None):
        parser.error("--json-file and --image-root belong together")
    if not (args.names or args.json_file or args.config_file):
        parser.error("give a NAME, --json-file with --image-root, or --config-file")
    try:
        return _run(args)
    except (ConfigError, DataError) as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(args: argparse.Namespace) -> int:
    console = Console(highlight=False, soft_wrap=True)
    import_all(args.imports)
    cfg = load_config(args.config_file) if args.config_file else None
    if cfg is not None:
        if not isinstance(cfg, CfgNode):
            raise ConfigError(f"--config-file {args.config_file}: expected a yaml config.")
        register_datasets(cfg, names=args.names)
    names = args.names
    if cfg is not None and not names and not args.json_file:
        names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
        if not names:
            raise ConfigError(f"DATASETS.TRAIN and DATASETS.TEST of {args.config_file} are empty.")
    targets = [registered_coco(name) for name in names]
    if args.json_file:
        targets.append(CocoFiles(args.json_file, args.json_file, args.image_root))
    for target in targets if args.json else ():
        if os.path.realpath(args.json) == os.path.realpath(target.json_file):
            raise DataError(
                f"--json {args.json}: is the data set {target.name} itself; name another file."
            )
    results: list[dict] = []
    summaries: list[DatasetSummary] = []
    for target in targets:
        data = read_coco(target.json_file, annotated=False)
        summary = DatasetSummary.of(target.name, data, target.image_root or "")
        between = [p for other in summaries for p in _compare(other, summary, cfg)]
        if cfg is not None and not summaries:
            between += _unknown_names(cfg) + _odd_keys(cfg, summary)
        summaries.append(summary)
        results.append(_check(target, data, cfg, not args.no_decode, between))
        _print(results[-1], args.max_shown, console)
    errors, notes = (sum(r[key] for r in results) for key in ("errors", "warnings"))
    failed = bool(errors or (args.strict and notes))
    if args.json_file and cfg is None and not failed:
        print(
            f"next: python -m mrcnn_ext.data.stats {args.json_file} --images {args.image_root} "
            "--out stats"
        )
    if args.json:
        _write(Path(args.json), {"ok": not failed, "datasets": results})
    return int(failed)


def _unknown_names(cfg) -> list[Problem]:
    try:
        check_names(cfg)
    except ConfigError as error:
        text = f"{error} --import takes modules that register more."
        return [Problem("error", "config-name", None, None, text)]
    return []


def _odd_keys(cfg, first: DatasetSummary) -> list[Problem]:
    """Of the keys of data and of weights by class; the latter name classes of the training set."""
    if "MRCNN_EXT" not in cfg:
        return []
    classes = first.classes if first.name in cfg.DATASETS.TRAIN else ()
    problems: list[Problem] = []
    for kind, check in (  # the second looks at bands, too
        ("config-bands", check_bands),
        ("config-data", check_data),
        ("config-class-weights", lambda cfg: check_class_weights(cfg, classes)),
    ):
        try:
            check(cfg)
        except ConfigError as error:
            text = str(error).rstrip(".")
            if all(text != problem.message for problem in problems):
                problems.append(Problem("error", kind, None, None, text))
    return problems


def _compare(first: DatasetSummary, second: DatasetSummary, cfg) -> list[Problem]:
    names = {first.name, second.name}
    train, test = ((), ()) if cfg is None else (set(cfg.DATASETS.TRAIN), set(cfg.DATASETS.TEST))
    problems = compare_datasets(first, second, together=names <= {*train, *test})
    # Several test sets may share images.
    same_use = cfg is not None and names <= set(test) - set(train)
    return [p for p in problems if not (same_use and p.kind == "image-shared")]


def _check(target: CocoFiles, data: dict, cfg, decode: bool, between: list[Problem]) -> dict:
    """The entry of one data set in the ``--json`` report."""
    problems = [*between, *check_file(target.json_file)]
    if cfg is not None:
        problems += check_with_config(data, cfg, target.metadata)
    with stage_progress() as progress:
        problems += check_coco(
            data,
            target.image_root or "",
            decode_images=decode,
            metadata=target.metadata,
            progress=progress,
            reader=None if cfg is None else ImageReader.from_config(cfg),
        )
    kinds = {p.kind for p in problems}
    if "config-no-annotations" in kinds:  # which says more
        problems = [p for p in problems if p.kind != "annotations-none"]
    if cfg is not None:  # which knows the evaluator
        problems = [p for p in problems if p.kind != "annotation-id-text"]
        if takes_boxes_only(cfg):
            problems = [p for p in problems if p.kind not in MASK_IS_MISSING]
    return {
        "name": target.name,
        "json_file": target.json_file,
        "image_root": target.image_root,
        "counts": count_coco(data),
        "errors": sum(p.severity == "error" for p in problems),
        "warnings": sum(p.severity == "warning" for p in problems),
        "problems": [asdict(p) for p in problems],
    }


def _print(result: dict, max_shown: int, console: Console) -> None:
    counts = result["counts"]
    console.print(f"\n[bold]{escape(result['name'])}[/]  {escape(result['json_file'])}")
    console.print(
        f"  {counts['images']} images ({counts['images_without_annotations']} without "
        f"annotations), {counts['annotations']} annotations ({counts['crowd']} crowd), "
        f"{counts['categories']} categories; instances an image: {counts['instances_min']} to "
        f"{counts['instances_max']}, median {counts['instances_median']:g}"
    )
    groups: dict[tuple[str, str], list[dict]] = {}
    for problem in result["problems"]:
        groups.setdefault((problem["severity"], problem["kind"]), []).append(problem)
    for (severity, kind), problems in sorted(groups.items()):
        color = "red" if severity == "error" else "yellow"
        console.print(f"  [{color}]{severity}[/] [bold]{kind}[/] ({len(problems)})")
        shown = problems[: max_shown if max_shown > 0 else None]
        for problem in shown:
            console.print(f"    {_line(problem)}", markup=False)
        if len(shown) < len(problems):
            console.print(f"    ... and {len(problems) - len(shown)} more (--max-shown 0: all)")
    console.print(f"  {result['errors']} errors, {result['warnings']} warnings")


def _line(problem: dict) -> str:
    ids = [
        f"{key.split('_')[0]} {problem[key]}"
        for key in ("image_id", "annotation_id")
        if problem[key] is not None
    ]
    line = f"{', '.join(ids)}: {problem['message']}" if ids else problem["message"]
    return line.encode("utf-8", "backslashreplace").decode()  # half a surrogate is valid in json


def _write(path: Path, report: dict) -> None:
    try:
        write_json(path, report)
    except OSError as error:
        raise DataError(f"--json {path}: {error.strerror or error}.") from error


if __name__ == "__main__":
    with warnings.catch_warnings():  # of the libraries
        warnings.simplefilter("ignore")
        sys.exit(main())
