#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""One image through Detectron2's model, the exported file in onnxruntime, and in OpenVINO.

    python benchmarks/bm_export.py [--threads 1 2] [--rounds 9] [--out FOLDER] [--quick]
        [--config-file CONFIG] [--weights FILE]

Without weights they are random, and SCORE_THRESH_TEST is 0, so that all detections go through the mask
head; their number is in the result. All candidates run in this process in turns, after a warm-up; a
time is the median, a ratio the median of the rounds' own ratios. Only the model is timed: images are
resized already, masks are not pasted. Written to the folder: export.json.

- "detectron2": the model in eval mode, under no_grad, without its post-processing.
- "onnxruntime": the file on the CPU provider.
- "openvino", "openvino bf16": the same file with INFERENCE_PRECISION_HINT f32 or bf16; left out where
  OpenVINO is not installed, or the processor has no bf16.
- "int8": the file quantised by onnxruntime on noise, which is good for the time only (--int8).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from common import machine
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from mrcnn_ext.config.load import load_config
from mrcnn_ext.deploy import ModelInput, OnnxModel, export_onnx
from mrcnn_ext.deploy.quantise import quantise_int8
from mrcnn_ext.files import write_json

IMAGE, QUICK = (800, 1344), (192, 256)


def stock_model(config_file: str, weights: str):
    cfg = load_config(config_file, ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "()"])
    cfg.DATASETS.TEST = ()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.ROI_HEADS.NAME = cfg.MODEL.ROI_HEADS.NAME.replace("MrcnnExt", "")
    if not weights:
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if weights:
        DetectionCheckpointer(model).load(weights)
        return model
    # Frozen norms that know no statistics let each block double the variance: all scores would be
    # ties, which every runtime decides in another way.
    factors = {"conv3.norm": 0.2, "stem.conv1.norm": 0.02}
    for name, module in model.named_modules():
        for end, factor in factors.items():
            if name.endswith(end):
                module.weight *= factor
    return model


def candidates(
    model, file: Path, image: np.ndarray, threads: int, int8: Path | None
) -> dict[str, Callable[[], int]]:
    """By name a function that runs the model once and returns the number of detections."""
    tensor = torch.from_numpy(image)

    def detectron2() -> int:
        with torch.no_grad():
            return len(model.inference([{"image": tensor}], do_postprocess=False)[0])

    found: dict[str, Callable[[], int]] = {"detectron2": detectron2}
    for name, path in (("onnxruntime", file), ("int8", int8)):
        if path is not None:
            runner = OnnxModel(path, threads=threads)
            found[name] = lambda runner=runner: len(runner._run(image)["scores"])
    try:
        import openvino
    except ImportError:
        return found
    core = openvino.Core()
    hints = {"openvino": "f32"}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        hints["openvino bf16"] = "bf16"
    for name, hint in hints.items():
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        compiled = core.compile_model(str(file), "CPU", options)
        found[name] = lambda compiled=compiled: len(compiled([image])["scores"])
    return found


def measure(runs: dict[str, Callable[[], int]], rounds: int) -> dict[str, dict]:
    detections = {name: run() for name, run in runs.items()}  # the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    stock = seconds["detectron2"]
    return {
        name: {
            "detections": detections[name],
            "median_s": round(statistics.median(times), 4),
            "times_as_fast": round(statistics.median(a / b for a, b in zip(stock, times)), 3),
        }
        for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config-file", default="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    add("--weights", default="")
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--rounds", type=int, default=9)
    add("--int8", action="store_true")
    add("--out", type=Path, default=Path("benchmarks/results"))
    add("--quick", action="store_true", help="a small image, 2 rounds, one thread")
    args = parser.parse_args()
    size, rounds, threads = IMAGE, args.rounds, args.threads
    if args.quick:
        size, rounds, threads = QUICK, 2, [1]
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
    picture = cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
    image = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32)
    model = stock_model(args.config_file, args.weights)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        file, int8 = Path(folder) / "model.onnx", None
        export_onnx(model, file, ModelInput("BGR", 0, 0))
        if args.int8:
            int8 = Path(folder) / "int8.onnx"
            cv2.imwrite(str(Path(folder) / "noise.png"), picture)
            quantise_int8(file, int8, [Path(folder) / "noise.png"])
        for number in threads:
            torch.set_num_threads(number)
            runs = measure(candidates(model, file, image, number, int8), rounds)
            results.append({"threads": number, "runs": runs})
            for name, run in runs.items():
                print(f"{number} threads, {name}: {run}", flush=True)
    content = {
        "machine": machine(),
        "config": args.config_file,
        "weights": args.weights or "random",
        "image": list(size),
        "rounds": rounds,
        "results": results,
    }
    write_json(args.out / "export.json", content)


if __name__ == "__main__":
    main()
