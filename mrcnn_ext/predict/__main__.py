# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predict on your own images, folders and videos; pictures and COCO json come out.

    python -m mrcnn_ext.predict INPUT… [--output FOLDER]
    python -m mrcnn_ext.predict --config-file CONFIG [--weights FILE] INPUT… [--output FOLDER]
    python -m mrcnn_ext.predict --model model.onnx INPUT… [--output FOLDER]

The first form takes the model that comes with the package, which finds persons, their masks and 17
keypoints. The third runs what python -m mrcnn_ext.export wrote.

INPUT: images, folders (searched through), quoted globs, videos. CONFIG: a yaml or LazyConfig file, or
a name of mrcnn_ext.model_zoo. Written to FOLDER:

    coco_results.jsonl  a line an image, as soon as it is predicted: {"image_id", "file", "height",
                        "width", "results"}, the results as COCO has them
    coco_results.json   made from it at the end: COCO's results format; image_id is the index in
                        predictions.json, or what --ids-from says
    predictions.json    likewise: all results by file
    pictures/           images with their instances; videos as .mp4 (H.264 with mrcnn_ext[video]), of
                        an interrupted one what there is, as NAME.unfinished.mp4
    run.json            what the predictions depend on

and what --save names, in place of the pictures (docs/predict_forms.md):

    pictures            as above
    cutouts             cutouts/IMAGE/NUMBER_CLASS.png: each object, transparent around it
    coco                coco_dataset.json: images, categories and annotations with scores, masks as RLE
    coco-polygons       coco_polygons.json: the same with polygons, RLE where a mask has holes
    csv                 objects.csv: one row an object
    label-studio        label_studio/brush.json: tasks with predictions, and interface.xml
    label-studio-polygons
                        label_studio/polygons.json: the same with polygons, brushes where holes are
    cvat                cvat/annotations/: COCO 1.0 and COCO Keypoints 1.0

Whatever ends a call, what was predicted is not lost: the same command does the rest. If the model, an
option or an input has changed, that is an error; --restart begins anew. One process works in a FOLDER.

An image or video with a fault is left out with one line, and tried again by the next call: it cannot be
read, Detectron2 reads it wrongly, its name is not UTF-8, the model or the drawing fails on it. Of a
video, single frames are left out.

Exit code 0: all inputs done; 1: some were left out, or writing failed (what was done until then is in
coco_results.jsonl, and in the json files as far as there is room); 2: wrong usage, nothing done;
130, 143, 129: ended by SIGINT, SIGTERM, SIGHUP, what was done until then is written.

A folder that is searched through may hold FOLDER; the pictures drawn there are not taken as input.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ..checkpoint.shipped_weights import DEFAULT_SHIPPED, SHIPPED
from ..command_line import (
    TRUST_PICKLE,
    add_import_option,
    add_output_option,
    command_parser,
    import_all,
    open_standard_files,
    say,
)
from ..config.load import load_config
from ..errors import ConfigError, DataError, WeightsError
from ..evaluation.thresholds import Thresholds, read_thresholds
from ..files import check_writable, only_process, remove_leftovers
from ..results import FORMS, Cutouts, FormOptions, choose_forms, remove_forms
from ..results.forms import PER_IMAGE
from ..stop_signals import StopSignals, exit_code
from .dataset_ids import DatasetIds
from .exported import ExportedPredictor
from .predictor import Predictor, named_weights, reader_of
from .run import one_line, predict_sources
from .same_run import check_inputs, digest_of_config, digest_of_file, go_on_or_begin
from .sources import Source, find_sources
from .video.options import (
    add_video_options,
    check_smoothed_model,
    check_video_options,
    named_video_options,
    track_options,
)
from .video.write import unfinished
from .writer import PredictionWriter

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.predict", __doc__)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="image, folder, glob or video")
    add("--config-file", help="yaml or .py config, or its name in the model zoo (default: that of "
        "the model that comes with the package)")  # fmt: skip
    add(
        "--model", metavar="ONNX", help="an exported model, in place of --config-file and --weights"
    )
    add("--weights", help="checkpoint (default: what the config names)")
    add("--trust-pickle", action="store_true", help=TRUST_PICKLE)
    add_output_option(parser, type=Path, default=Path("predictions"), metavar="FOLDER",
        help="default: %(default)s")  # fmt: skip
    add("--score-threshold", type=float, help="leave out what scores less (default: 0.5)")
    add("--thresholds", metavar="FILE", help="in its place one for each class, as "
        "mrcnn_ext.evaluation --thresholds found them")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--no-optimize", action="store_true", help="run the model as built: slower, see "
        "docs/deployment.md")  # fmt: skip
    add_video_options(add)
    add("--batch-size", type=int, metavar="N",
        help="images that go through the model at once, where as many of one size follow each other "
        "(default: 1, on a GPU 4)")  # fmt: skip
    add("--save", action="append", default=[], metavar="FORM,…",
        help=f"forms of the results besides the json files: {', '.join((*PER_IMAGE, *FORMS))}; may be "
        "given again (default: pictures)")  # fmt: skip
    add("--no-pictures", action="store_true", help="without --save: write the json files only")
    add("--polygon-error", type=float, default=FormOptions.polygon_error, metavar="PIXELS",
        help="how far polygons may be from the mask's edge; 0 keeps every corner (default: "
        "%(default)s)")  # fmt: skip
    add("--image-url", default=FormOptions.image_url, metavar="PREFIX",
        help="stands before images' names in Label Studio's tasks (default: %(default)s)")  # fmt: skip
    add("--classes", help="names, separated by commas, where the data set is not registered here")
    add("--ids-from", metavar="JSON",
        help="take ids of images (by file name) and categories (by name) from this COCO json, or "
        "registered data set, so that coco_results.json can be scored with it")  # fmt: skip
    add("--restart", action="store_true", help="delete the predictions in FOLDER and begin anew")
    add_import_option(parser, "data sets or heads")
    add("--opts", nargs=argparse.REMAINDER, default=[],
        help="config overrides: KEY VALUE … (yaml), key=value … (LazyConfig); comes last")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    open_standard_files()
    args = _parser().parse_args(argv)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # a broken video is said in one line
    try:
        with StopSignals() as signals, ExitStack() as stack:
            try:
                predictor, sources, writer, threshold = _prepare(args, stack)
            except (ConfigError, DataError, WeightsError, ImportError) as error:
                return _end(f"predict: {error}", 2)
            return _predict(args, predictor, sources, writer, threshold, signals)
    except KeyboardInterrupt as stop:  # while preparing, or between two steps
        return _end("\ninterrupted; the same command does the rest", exit_code(stop))


def _predict(
    args: argparse.Namespace,
    predictor: Predictor | ExportedPredictor,
    sources: list[Source],
    writer: PredictionWriter,
    threshold: float | list[float],
    signals: StopSignals,
) -> int:
    before, start = writer.num_images, time.monotonic()
    skipped, code, ended_by = 0, 0, ""
    try:
        skipped = predict_sources(
            predictor,
            sources,
            writer,
            score_threshold=threshold,
            every=args.every,
            batch_size=args.batch_size or (4 if predictor.device.startswith("cuda") else 1),
            pictures=args.output / "pictures" if "pictures" in args.save else None,
            cutouts=Cutouts(args.output) if "cutouts" in args.save else None,
            signals=signals,
            track=track_options(args),
        )
    except KeyboardInterrupt as stop:
        code, ended_by = exit_code(stop), "\ninterrupted"
    except OSError as error:  # the disk is full, say
        code, ended_by = 1, f"predict: {error}"
    finally:  # whatever happened, what was predicted is not lost
        signals.ignore()
        images, seconds = writer.num_images - before, time.monotonic() - start
        try:
            writer.close()
        except (OSError, DataError) as error:
            code, ended_by = code or 1, ended_by or f"predict: {error}"
    if ended_by:
        return _end(f"{ended_by}; {writer.summary()}; the same command does the rest", code)
    say(one_line(writer.summary() + (_throughput(images, seconds) if images else "")))
    if images:
        _say_outdated(args)
    if skipped:
        _end(
            f"{skipped} of {len(sources)} inputs could not be read or predicted whole, see above", 1
        )
    return 1 if skipped else 0


def _throughput(images: int, seconds: float) -> str:
    return f"; {images / seconds:.3g} images a second, {seconds / images:.2g} s each"


def _say_outdated(args: argparse.Namespace) -> None:
    """Name the forms of an earlier call that lack the images of this one."""
    old = [n for n, form in FORMS.items() if n not in args.save and form.is_in(args.output)]
    if old:
        say(f"without the new images: {', '.join(old)}; --save {','.join(old)} makes them anew")


def _end(message: str, code: int) -> int:
    lines = message.split("\n")
    say("\n".join(map(one_line, lines)), error=True)
    return code


def _prepare(
    args: argparse.Namespace, stack: ExitStack
) -> tuple[Predictor | ExportedPredictor, list[Source], PredictionWriter, float | list[float]]:
    """Check everything before the model is loaded; the output folder is held until ``stack`` ends."""
    thresholds = _read_thresholds(args)
    args.save = choose_forms(name for text in args.save for name in text.split(","))
    if args.no_pictures and "pictures" in args.save:
        raise ConfigError("--no-pictures does not go with --save pictures.")
    if not args.save and not args.no_pictures:
        args.save = ["pictures"]
    form_options = FormOptions(args.polygon_error, args.image_url)
    if not 0 <= args.score_threshold <= 1:
        raise ConfigError(f"--score-threshold is {args.score_threshold}; expected 0 to 1.")
    for name in ("every", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected 1 or more.")
    import_all(args.imports)
    cfg = _config(args)
    # Folders of other models may hold npy files that are no images.
    arrays = cfg is not None and reader_of(cfg).by_band
    sources = _without_own_pictures(find_sources(args.inputs, arrays=arrays), args.output)
    check_video_options(args, sources)
    if "cutouts" in args.save:
        Cutouts.check(source.name for source in sources)
    what, load = _exported(args) if cfg is None else _configured(args, cfg)
    ids = DatasetIds(args.ids_from) if args.ids_from else None
    image_ids = None if ids is None else ids.of_images([s for s in sources if not s.name_problem()])
    run = {
        **what,
        "--score-threshold": "None" if thresholds else str(args.score_threshold),
        "--every": str(args.every),
        "--classes": str(args.classes),
        "--ids-from": "None" if ids is None else digest_of_file(ids.source),
        **named_video_options(args),
    }
    if thresholds:
        run["--thresholds"] = digest_of_file(args.thresholds)
    _take_folder(args, sources, run, stack)
    predictor = load()
    check_smoothed_model(args, getattr(predictor, "model", None))
    writer = _writer(args, predictor, sources, ids, image_ids, form_options)
    if thresholds is None:
        return predictor, sources, writer, args.score_threshold
    names = writer.metadata.get("thing_classes")
    return predictor, sources, writer, thresholds.for_classes(names, predictor.num_classes)


def _read_thresholds(args: argparse.Namespace) -> Thresholds | None:
    """Of the file; ``args.score_threshold`` becomes the lowest score that is kept.

    Raises:
        ConfigError: both are given.
        DataError: the file cannot be used.
    """
    if not args.thresholds:
        args.score_threshold = 0.5 if args.score_threshold is None else args.score_threshold
        return None
    if args.score_threshold is not None:
        raise ConfigError("--score-threshold does not go with --thresholds, which has all of them.")
    thresholds = read_thresholds(args.thresholds)
    args.score_threshold = thresholds.lowest
    return thresholds


def _exported(args: argparse.Namespace) -> tuple[dict[str, str], Callable]:
    """What run.json says of the model, and what loads it."""
    given = {
        "--config-file": args.config_file,
        "--weights": args.weights,
        "--trust-pickle": args.trust_pickle,
        "--opts": args.opts,
    }
    for option, value in given.items():
        if value:
            raise ConfigError(
                f"{option} does not go with --model, which has config and weights in it."
            )
    if not Path(args.model).is_file():
        raise ConfigError(f"--model {args.model}: there is no such file.")
    return {"model": digest_of_file(args.model)}, partial(
        ExportedPredictor, args.model, device=args.device
    )


def _config(args: argparse.Namespace):
    """The config; None for an exported model."""
    if args.model:
        return None
    if not args.config_file:
        if args.weights or args.opts:
            option = "--weights" if args.weights else "--opts"
            raise ConfigError(f"{option} needs --config-file, the config of those weights.")
        model = SHIPPED[DEFAULT_SHIPPED]
        args.config_file, args.weights = model.config, model.uri
        say(f"no --config-file: taking the package's own model {model.name} ({model.what})")
    return load_config(args.config_file, args.opts)


def _configured(args: argparse.Namespace, cfg) -> tuple[dict[str, str], Callable]:
    """What run.json says of the model, and what loads it."""
    what = {
        "config": digest_of_config(cfg),
        "weights": digest_of_file(named_weights(cfg, args.weights)),
    }
    return what, partial(_load, cfg, args)


def _load(cfg, args: argparse.Namespace) -> Predictor:
    try:
        return Predictor(
            cfg,
            weights=args.weights,
            device=args.device,
            trust_pickle=args.trust_pickle,
            optimized=not args.no_optimize,
            # What scores less is left out of the results.
            min_mask_score=args.score_threshold,
        )
    except (ConfigError, DataError, WeightsError, ImportError):
        raise  # says what is wrong already
    except Exception as error:  # checkpoints are pickles: reading them can raise anything
        what = f"config {args.config_file} with weights {args.weights or 'as it names them'}"
        raise WeightsError(f"{what}: {type(error).__name__}: {error}") from error


def _take_folder(
    args: argparse.Namespace, sources: list[Source], run: dict[str, str], stack: ExitStack
) -> None:
    try:
        str(args.output).encode()
        check_writable(args.output)
        stack.enter_context(only_process(args.output))
        for folder in (args.output, *(args.output / "pictures").glob("**/")):
            remove_leftovers(folder)
        Cutouts(args.output).begin()
        go_on_or_begin(args.output, run, restart=args.restart)
        if args.restart:
            remove_forms(args.output)
            Cutouts(args.output).discard(source.name for source in sources)
            for source in sources:
                picture = args.output / "pictures" / source.picture_name()
                for file in (picture, unfinished(picture)):
                    file.unlink(missing_ok=True)
    except (OSError, UnicodeError) as error:
        raise DataError(f"--output {args.output}: {error}.") from error
    except DataError as error:
        raise DataError(f"--output: {error}") from error


def _writer(
    args: argparse.Namespace,
    predictor: Predictor | ExportedPredictor,
    sources: list[Source],
    ids: DatasetIds | None,
    image_ids: dict | None,
    form_options: FormOptions,
) -> PredictionWriter:
    number = predictor.num_classes
    classes = args.classes.split(",") if args.classes else None
    if classes and number and len(classes) != number:
        raise ConfigError(f"--classes names {len(classes)} classes, but the model has {number}.")
    category_ids = None
    if ids is not None:
        known = classes or predictor.metadata.get("thing_classes")
        category_ids, classes = ids.of_classes(number, known)
    try:
        writer = PredictionWriter(
            args.output,
            predictor.metadata,
            classes,
            image_ids=image_ids,
            category_ids=category_ids,
            resume=True,
            forms=[name for name in args.save if name in FORMS],
            form_options=form_options,
        )
    except OSError as error:
        raise DataError(f"--output {args.output}: {error}.") from error
    check_inputs(writer.results, sources)
    return writer


def _without_own_pictures(sources: list[Source], output: Path) -> list[Source]:
    """Leave out what an earlier run drew, so that ``. --output out`` can be run again."""
    try:
        own = {(output / name).resolve() for name in PER_IMAGE}
    except (OSError, RuntimeError) as error:  # links in a circle
        raise DataError(f"--output {output}: {error}.") from error
    kept = [source for source in sources if own.isdisjoint(source.path.resolve().parents)]
    if not kept:
        raise DataError(f"INPUT: only pictures that an earlier run drew to {output}.")
    return kept


if __name__ == "__main__":
    with warnings.catch_warnings():  # of the libraries
        warnings.simplefilter("ignore")
        sys.exit(main())
