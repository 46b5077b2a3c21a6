# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predict on your own images, folders and videos; pictures and COCO json come out.

    python -m mrcnn_ext.predict --config-file CONFIG [--weights FILE] INPUT… --output FOLDER

INPUT: images, folders (searched through), quoted globs, videos. CONFIG: a yaml or LazyConfig file, or
a name of mrcnn_ext.model_zoo. Written to FOLDER: pictures/ (videos as .mp4), predictions.json (all
results by file) and coco_results.json (COCO's results format; image_id is the index in
predictions.json).

Exit code 0: all inputs done; 1: some could not be read and were left out, or writing failed (what was
done until then is written as far as it goes); 2: wrong usage, nothing done;
130: interrupted, what was done until then is written.

A folder that is searched through may hold FOLDER; the pictures drawn there are not taken as input.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

from ..command_line import TRUST_PICKLE, add_import_option, command_parser, import_all
from ..config.load import load_config
from ..errors import ConfigError, DataError, WeightsError
from .predictor import Predictor
from .run import predict_sources
from .sources import Source, find_sources
from .writer import PredictionWriter

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.predict", __doc__)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="image, folder, glob or video")
    add("--config-file", required=True, help="yaml or .py config, or its name in the model zoo")
    add("--weights", help="checkpoint (default: what the config names)")
    add("--trust-pickle", action="store_true", help=TRUST_PICKLE)
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--score-threshold", type=float, default=0.5, help="leave out what scores less")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--every", type=int, default=1, metavar="N", help="of a video take every Nth frame")
    add("--no-pictures", action="store_true", help="write the json files only")
    add("--classes", help="names, separated by commas, where the data set is not registered here")
    add_import_option(parser, "data sets or heads")
    add("--opts", nargs=argparse.REMAINDER, default=[],
        help="config overrides: KEY VALUE … (yaml), key=value … (LazyConfig); comes last")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        predictor, sources = _prepare(args)
    except (ConfigError, DataError, WeightsError, ImportError) as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    classes = args.classes.split(",") if args.classes else None
    writer = PredictionWriter(args.output, predictor.metadata, classes)
    start = time.monotonic()
    skipped, code, ended_by = 0, 0, ""
    try:
        skipped = predict_sources(
            predictor,
            sources,
            writer,
            score_threshold=args.score_threshold,
            every=args.every,
            pictures=None if args.no_pictures else args.output / "pictures",
        )
    except KeyboardInterrupt:
        code, ended_by = 130, "\ninterrupted"
    except OSError as error:  # the disk is full, say
        code, ended_by = 1, f"predict: {error}"
    finally:  # whatever happened, what was predicted is not lost
        writer.close()
    if ended_by:
        print(f"{ended_by}; {writer.summary()}", file=sys.stderr)
        return code
    seconds = (time.monotonic() - start) / max(1, writer.num_images)
    print(f"{writer.summary()}; {seconds:.2f} s an image")
    if skipped:
        print(f"{skipped} of {len(sources)} inputs could not be read, see above", file=sys.stderr)
    return 1 if skipped else 0


def _prepare(args: argparse.Namespace) -> tuple[Predictor, list[Source]]:
    if not 0 <= args.score_threshold <= 1:
        raise ConfigError(f"--score-threshold is {args.score_threshold}; expected 0 to 1.")
    if args.every < 1:
        raise ConfigError(f"--every is {args.every}; expected 1 or more.")
    sources = _without_own_pictures(find_sources(args.inputs), args.output)
    import_all(args.imports)
    cfg = load_config(args.config_file, args.opts)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output {args.output}: {error.strerror}.") from error
    try:
        predictor = Predictor(
            cfg, weights=args.weights, device=args.device, trust_pickle=args.trust_pickle
        )
    except (ConfigError, DataError, WeightsError, ImportError):
        raise  # says what is wrong already
    except Exception as error:  # checkpoints are pickles: reading them can raise anything
        what = f"config {args.config_file} with weights {args.weights or 'as it names them'}"
        raise WeightsError(f"{what}: {type(error).__name__}: {error}") from error
    _check_classes(args, predictor)
    return predictor, sources


def _without_own_pictures(sources: list[Source], output: Path) -> list[Source]:
    """Leave out what an earlier run drew, so that ``. --output out`` can be run again."""
    own = (output / "pictures").resolve()
    kept = [source for source in sources if own not in source.path.resolve().parents]
    if not kept:
        raise DataError(f"INPUT: only pictures that an earlier run drew to {own}.")
    return kept


def _check_classes(args: argparse.Namespace, predictor: Predictor) -> None:
    number = getattr(getattr(predictor.model, "roi_heads", None), "num_classes", None)
    if args.classes and number and len(args.classes.split(",")) != number:
        given = len(args.classes.split(","))
        raise ConfigError(f"--classes names {given} classes, but the model has {number}.")


if __name__ == "__main__":
    with warnings.catch_warnings():  # of the libraries
        warnings.simplefilter("ignore")
        sys.exit(main())
