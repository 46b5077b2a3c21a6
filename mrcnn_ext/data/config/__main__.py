# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write a training config for your data and memory, with the reason of each choice as a comment.

    python -m mrcnn_ext.data.config data_split/split.yaml --out config.yaml
    python -m mrcnn_ext.data.config train.json --images images --test val.json --out config.yaml
    python -m mrcnn_ext.data.config mrcnn_ext_shapes_train --test mrcnn_ext_shapes_val --out config.yaml

Exit code 0: done; 2: wrong usage, unreadable input, data that cannot be trained on.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from ...command_line import (
    add_import_option,
    add_output_option,
    command_parser,
    exit_code_of,
    import_all,
    say,
)
from ...config.load import get_config_file, load_config
from ...errors import DataError
from ...files import write_text
from ..configured_datasets import register_datasets
from ..pictures import picture_problem
from .bands import band_choices
from .choices import Choice, Machine, choose
from .sources import Source, find_source, measure_all, slots
from .text import config_text

__all__ = ["main"]

_LOOKED_AT = 20  # images
_MOST_MEMORY = 1e6  # GiB
_WRITTEN = "Written by python -m mrcnn_ext.data.config."  # begins the file


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.data.config", __doc__)
    add = parser.add_argument
    add("data", metavar="NAME|JSON|YAML",
        help="the training set: a registered name, a COCO json, or the yaml of data.split")  # fmt: skip
    add("--images", metavar="FOLDER", help="the images of a json")
    add("--test", metavar="NAME|JSON", help="the set to evaluate on")
    add("--test-images", metavar="FOLDER", help="its images (default: those of --images)")
    add(
        "--device",
        choices=("cpu", "cuda"),
        help="where it will be trained (default: what there is)",
    )
    add(
        "--memory",
        type=float,
        metavar="GiB",
        help="of the GPU, or of the machine (default: what there is)",
    )
    add("--no-keypoints", action="store_true", help="train no keypoints, though there are some")
    add("--output-dir", default="./output/own_data", help="OUTPUT_DIR (default: ./output/own_data)")
    add_output_option(parser, "--out", type=Path, default=Path("config.yaml"),
                      help="the config to write (default: config.yaml)")  # fmt: skip
    add_import_option(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: of the process); return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.memory is not None and not 0 < args.memory <= _MOST_MEMORY:
        parser.error(f"--memory is {args.memory}, expected a positive number of GiB")
    if args.out.suffix not in (".yaml", ".yml"):
        parser.error(f"--out is {args.out}, expected a name that ends with .yaml")
    return exit_code_of("config", lambda: _run(args))


def _machine(args: argparse.Namespace) -> Machine:
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    memory, cores = args.memory, os.cpu_count() or 1
    if memory is None and device == "cuda":
        if not torch.cuda.is_available():
            raise DataError("there is no GPU here; say with --memory how many GiB yours has.")
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    elif memory is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    workers = max(1, min(4, cores - 1))
    return Machine(device, memory, workers, f"{cores} cores here")


def _run(args: argparse.Namespace) -> int:
    import_all(args.imports)
    source = find_source(args.data, args.images)
    test = None
    if args.test is not None:
        test = find_source(args.test, args.test_images or args.images)
        for entry in test.entries:
            if entry[0] in source.names and entry not in source.entries:  # of another folder
                entry[0] = f"{entry[0]}_test"
                test.names = [entry[0]]
    found, categories = measure_all(source)
    first = source.files[0][0]
    keypoints = 0 if args.no_keypoints or not found.keypoints.any() else slots(categories, first)
    machine = _machine(args)
    try:
        base, choices, notes = choose(found, machine, keypoints=keypoints)
    except DataError as error:
        raise DataError(f"{args.data}: {error}") from error
    pixels = band_choices(source, base)
    choices = [*_data_choices(source, test), *pixels, *choices, *_device(machine, args)]
    notes += ([] if pixels else _picture_notes(source)) + _test_notes(source, test)
    head = _head(args, machine, found, notes, by_band=bool(pixels))
    text = config_text(get_config_file(base), choices, head)
    _check(text)
    _keep_old(args.out, text)
    write_text(args.out, text)
    say(f"{args.out}: {len(choices)} keys for {machine.device} with {machine.memory:.0f} GiB")
    for note in notes:
        say(f"note: {note}")
    say(f"next: python -m mrcnn_ext.data.check --config-file {args.out}")
    say(f"then: python -m mrcnn_ext.train --config-file {args.out}")
    return 0


def _data_choices(source: Source, test: Source | None) -> list[Choice]:
    tested = source.test if test is None else test.names
    entries = {entry[0]: entry for entry in [*source.entries, *(test.entries if test else [])]}
    choices = []
    if entries:
        choices.append(
            Choice(
                "MRCNN_EXT.DATA.DATASETS",
                list(entries.values()),
                "[name, json, images] of each set.",
            )
        )
    return [
        *choices,
        Choice("DATASETS.TRAIN", source.names),
        Choice("DATASETS.TEST", tested),
    ]


def _device(machine: Machine, args: argparse.Namespace) -> list[Choice]:
    return [
        Choice("MODEL.DEVICE", machine.device),
        Choice("OUTPUT_DIR", args.output_dir),
    ]


def _head(
    args: argparse.Namespace, machine: Machine, found, notes: list[str], *, by_band: bool
) -> list[str]:
    return [
        f"{_WRITTEN} Change what you like; the reason of a key stands above it.",
        f"For {args.data}: {len(found.image_sizes)} images, {len(found.boxes)} objects; to be trained "
        f"on {machine.device} with {machine.memory:.0f} GiB.",
        *(f"Note: {note}." for note in notes),
        "Architecture and weights are those of the base."
        if by_band
        else "Architecture, weights and the pixel statistics of the weights are those of the base.",
    ]


def _picture_notes(source: Source) -> list[str]:
    """Pictures that Detectron2 does not read as they are."""
    for path, root in source.files:
        if root is None:
            continue
        names = sorted(p for p in os.listdir(root) if os.path.isfile(os.path.join(root, p)))
        for name in names[:_LOOKED_AT]:
            problem = picture_problem(os.path.join(root, name))
            if problem:
                return [f"{os.path.join(root, name)} (of {path}) {problem}"]
    return []


def _test_notes(source: Source, test: Source | None) -> list[str]:
    if test is None and not source.test:
        return ["no set to evaluate on (--test): data.split makes one"]
    return []


def _keep_old(out: Path, text: str) -> None:
    """Keep another config of that name, which may have been changed by hand.

    Raises:
        DataError: the file is none that this command wrote.
    """
    if not out.exists():
        return
    old = out.read_bytes() if out.is_file() else b""
    if not old.startswith(f"# {_WRITTEN}".encode()):
        raise DataError(
            f"--out {out}: is there already, and no config of this command; delete it, or name "
            "another file."
        )
    if old != text.encode():
        kept = out.with_name(f"{out.name}.old")
        os.replace(out, kept)
        say(f"note: the config that was there is now {kept}")


def _check(text: str) -> None:
    """Load the text as training will.

    Raises:
        ConfigError: the name of a data set is that of another one, say.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.yaml")
        Path(path).write_text(text, encoding="utf-8")
        register_datasets(load_config(path))


if __name__ == "__main__":
    sys.exit(main())
