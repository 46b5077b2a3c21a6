# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Show training samples as the model gets them, with masks, boxes and keypoints.

    python -m mrcnn_ext.data.show config.yaml --number 12 --out samples.png
    python -m mrcnn_ext.data.show config.yaml --each \\
        MRCNN_EXT.DATA.AUGMENTATIONS "['Rotation', 'Noise']"
    python -m mrcnn_ext.data.show config.py --import my_package.datasets dataloader.train.num_workers=0

The config is yaml or a LazyConfig, a file or one of this package by its name.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from ...command_line import (
    add_import_option,
    add_output_option,
    command_parser,
    exit_code_of,
    import_all,
    say,
    stage_progress,
)
from ...config.load import load_config
from ...errors import ConfigError, DataError
from ...files import replaced_file
from ...visualization.sheets import captioned, contact_sheet
from .pictures import draw_sample
from .samples import TrainingSamples

__all__ = ["main"]

_CAPTION = 26  # pixels


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.data.show", __doc__)
    add = parser.add_argument
    add("config", metavar="CONFIG", help="yaml or LazyConfig")
    add("opts", nargs="*", metavar="KEY VALUE", help="overrides; key=value for a LazyConfig")
    add("--number", type=int, default=12, metavar="N",
        help="samples; with --each, in every row (default: 12; with --each: 4)")  # fmt: skip
    add("--columns", type=int, default=4, metavar="N", help="samples in a row (default: 4)")
    add("--each", action="store_true",
        help="one row for each augmentation of the list, beside the sample without any")  # fmt: skip
    add("--seed", type=int, default=0, help="of the choice of images, and of what is random")
    add("--side", type=int, default=480, help="longer side of a sample in pixels (default: 480)")
    add_output_option(parser, "--out", default="samples.png", help="picture to write (samples.png)")
    add_import_option(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: of the process); return the exit code."""
    parser = _parser()
    args = parser.parse_intermixed_args(argv)
    for name in ("number", "columns", "side"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; expected 1 or more")
    if Path(args.out).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"--out {args.out}: expected a .png or .jpg")
    if not 0 <= args.seed < 2**31:
        parser.error(f"--seed is {args.seed}; expected 0 to {2**31 - 1}")
    return exit_code_of("show", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    import_all(args.imports)
    cfg = load_config(args.config, args.opts)
    try:
        samples = TrainingSamples.of_config(cfg)
    except AssertionError as error:  # Detectron2's, of a set without objects
        raise DataError(f"{args.config}: {error}") from error
    picture = _each(samples, args) if args.each else _sheet(samples, args)
    kind = "PNG" if args.out.lower().endswith(".png") else "JPEG"
    try:
        with replaced_file(args.out) as file:
            Image.fromarray(picture).save(file, kind)
    except (OSError, ValueError) as error:  # ValueError: too large for its format
        raise DataError(
            f"--out {args.out}: {getattr(error, 'strerror', None) or error}."
        ) from error
    say(f"{args.out}: {picture.shape[1]} x {picture.shape[0]} pixels")
    return 0


def _sheet(samples: TrainingSamples, args: argparse.Namespace) -> np.ndarray:
    chosen = samples.choose(args.number, args.seed)
    panels = []
    with stage_progress() as progress:
        for place, index in enumerate(chosen):
            panels.append(_panel(samples, index, args.seed + place, args.side))
            progress("samples", len(panels), len(chosen))
    return contact_sheet(panels, args.columns)


def _each(samples: TrainingSamples, args: argparse.Namespace) -> np.ndarray:
    steps = samples.augmentations
    if not steps:
        raise ConfigError("--each: the config has no augmentations.")
    number = min(args.number, 4) if args.number == 12 else args.number
    chosen = samples.choose(len(steps), args.seed)
    plain = samples.only([])
    panels = []
    with stage_progress() as progress:
        for row, step in enumerate(steps):
            index = chosen[row % len(chosen)]
            panels.append(_panel(plain, index, 0, args.side, "without augmentation"))
            alone = samples.only([step])
            for place in range(number):
                seed = args.seed + place
                panels.append(_panel(alone, index, seed, args.side, _name(step)))
            progress("augmentations", row + 1, len(steps))
    return contact_sheet(panels, number + 1)


def _name(step) -> str:
    inner = getattr(step, "aug", step)  # of RandomApply, which has no text of its own
    text = str(inner).replace("\n", " ")
    # Detectron2's text of an augmentation whose arguments it has changed
    return type(inner).__name__ if text.startswith("<") else text


def _panel(
    samples: TrainingSamples, index: int, seed: int, side: int, caption: str | None = None
) -> np.ndarray:
    try:
        sample = samples.sample(index, seed)
    except (ConfigError, DataError):
        raise
    except (OSError, ValueError, SyntaxError) as error:  # of decoders, and of Detectron2's mapper
        name = samples.records[index].get("file_name", index)
        raise DataError(f"image {name}: {type(error).__name__}: {error}") from error
    image_format = getattr(samples.mapper, "image_format", "BGR")
    reader = getattr(samples.mapper, "reader", None)
    picture = draw_sample(
        sample, samples.metadata, image_format=image_format, side=side, reader=reader
    )
    if caption is None:
        number, size = len(sample.get("instances", ())), sample["image"].shape
        name = Path(str(sample.get("file_name", index))).name
        caption = f"{name}: {size[2]} x {size[1]}, {number} object{'s' * (number != 1)}"
    return captioned(picture, caption, _CAPTION)


if __name__ == "__main__":
    with warnings.catch_warnings():  # of the libraries
        warnings.simplefilter("ignore")
        sys.exit(main())
