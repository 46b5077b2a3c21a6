# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Export a trained model as one ONNX file that runs without PyTorch and Detectron2.

    python -m mrcnn_ext.export --config-file CONFIG [--weights FILE] --output model.onnx

CONFIG: a yaml or LazyConfig file, or a name of mrcnn_ext.model_zoo. The file says of itself how images
are resized and what the classes and keypoints are. It runs with mrcnn_ext/deploy/onnx_runner.py, which
needs NumPy, OpenCV and onnxruntime only, or with

    python -m mrcnn_ext.predict --model model.onnx INPUT… --output FOLDER

--check runs the file and the model on images of yours, and says how far they are apart. With
--resize-in-graph the model gets images resized as the file does it, not as Pillow does.

--int8 writes a smaller, quantised model, whose ranges come from the images of --calibration.

Exit code 0: written; 1: written, but --check found a difference; 2: nothing was written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .command_line import TRUST_PICKLE, add_import_option, command_parser, import_all
from .config.load import load_config
from .deploy import ModelInput, export_onnx
from .deploy.export import resizing_file
from .deploy.parity import Parity, compare_detections, join
from .deploy.quantise import quantise_int8
from .deploy.supported import OPSETS, check_installed, check_model, check_opset
from .errors import ConfigError, DataError, WeightsError
from .predict.exported import ExportedPredictor, detections_of, input_of
from .predict.predictor import Predictor, reader_of
from .predict.sources import find_sources

__all__ = ["main"]

# What float32 rounding may do; see docs/deployment.md
_TOLERANCE = {"box": 1e-3, "score": 1e-3}
_SAME_PIXELS = 0.999


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.export", __doc__)
    add = parser.add_argument
    add("--config-file", required=True, help="yaml or .py config, or its name in the model zoo")
    add("--weights", help="checkpoint (default: what the config names)")
    add("--trust-pickle", action="store_true", help=TRUST_PICKLE)
    add("--output", type=Path, required=True, metavar="ONNX")
    add("--opset", type=int, help=f"of ONNX, {OPSETS[0]} to {OPSETS[-1]} (default: the lowest)")
    add("--resize-in-graph", action="store_true",
        help="the input is the image itself, uint8 BGR of any size (opset 18)")  # fmt: skip
    add("--classes", help="names, separated by commas, where the data set is not registered here")
    add("--check", nargs="+", default=[], metavar="IMAGE",
        help="images or folders to compare the file and the model on")  # fmt: skip
    add("--int8", action="store_true", help="quantise weights and activations to 8 bits")
    add("--calibration", metavar="FOLDER", help="images that are like those to come, for --int8")
    add("--calibration-images", type=int, default=100, metavar="N", help="at most (default: 100)")
    add_import_option(parser, "data sets or heads")
    add("--opts", nargs=argparse.REMAINDER, default=[],
        help="config overrides: KEY VALUE … (yaml), key=value … (LazyConfig); comes last")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except (ConfigError, DataError, WeightsError, ImportError) as error:
        print(f"export: {error}", file=sys.stderr)
    except OSError as error:
        print(f"export: --output {args.output}: {error.strerror or error}", file=sys.stderr)
    return 2


def _run(args: argparse.Namespace) -> int:
    opset = args.opset or (18 if args.resize_in_graph else OPSETS[0])
    check_opset(opset, resize=args.resize_in_graph)
    check_installed("onnx", *(["onnxruntime"] if args.check or args.int8 else []))
    if args.int8 and not args.calibration:
        raise ConfigError("--int8 needs --calibration FOLDER: images to find the ranges on.")
    if args.output.is_dir():
        raise ConfigError(f"--output {args.output} is a folder; expected the name of a file.")
    import_all(args.imports)
    cfg = load_config(args.config_file, args.opts)
    arrays = reader_of(cfg).by_band
    images = _images(args.check, "--check", arrays)
    calibration = _images([args.calibration], "--calibration", arrays) if args.int8 else []
    calibration = calibration[: args.calibration_images]
    predictor = Predictor(
        cfg,
        weights=args.weights,
        device="cpu",
        trust_pickle=args.trust_pickle,
        optimized=False,  # a file has operators of onnx, not this processor's
    )
    check_model(predictor.model)
    source = input_of(predictor, args.classes.split(",") if args.classes else None)
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "model.onnx" if args.int8 else args.output
        info = export_onnx(predictor.model, full, source, opset=opset, resize=args.resize_in_graph)
        if args.int8:
            quantise_int8(full, args.output, calibration)
    size = args.output.stat().st_size / 1e6
    parts = ", ".join(str(name) for name in info["model"].values())
    print(f"{args.output}: {size:.1f} MB, opset {opset}, {parts}")
    if not images:
        return 0
    resize = _resizing(source, opset) if args.resize_in_graph else None
    result = _compare(predictor, ExportedPredictor(args.output, device="cpu"), images, resize)
    print(f"{len(images)} images: {result}")
    return 0 if args.int8 or _is_same(result) else 1


def _images(names: list[str], option: str, arrays: bool) -> list[Path]:
    sources = find_sources(names, option, arrays=arrays) if names else []
    return [source.path for source in sources if not source.is_video]


def _resizing(source: ModelInput, opset: int) -> Callable[[np.ndarray], np.ndarray]:
    """What makes the model's input from an image (H, W, 3), BGR, just as the file does it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        resizing_file(source, opset), options, ["CPUExecutionProvider"]
    )
    return lambda image: session.run(None, {"image": np.ascontiguousarray(image)})[0]


def _compare(
    predictor: Predictor,
    exported: ExportedPredictor,
    images: list[Path],
    resize: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Parity:
    """Differences over the images; ``resize`` is what resizes in place of the predictor."""
    parts = []
    for path in images:
        try:
            image = exported.reader(path)
        except Exception as error:  # Pillow raises many kinds
            raise DataError(f"--check {path}: {error}") from error
        if resize is None:
            (result,) = predictor.predict_batch([image])
        else:
            height, width = image.shape[:2]
            pixels = torch.from_numpy(resize(image))
            with torch.no_grad():
                (result,) = predictor.model([{"image": pixels, "height": height, "width": width}])
        expected, masks = detections_of(result["instances"])
        found = detections_of(exported(image)["instances"])
        parts.append(compare_detections(expected, found[0], masks, found[1]))
    return join(parts)


def _is_same(result: Parity) -> bool:
    return (
        result.unmatched == 0
        # Equal scores make everything a near-tie: of files that differ, nothing then matches.
        and result.near_ties <= result.matched
        and all(getattr(result, name) <= limit for name, limit in _TOLERANCE.items())
        and result.same_pixels >= _SAME_PIXELS
    )


if __name__ == "__main__":
    with warnings.catch_warnings():  # of the libraries
        warnings.simplefilter("ignore")
        sys.exit(main())
