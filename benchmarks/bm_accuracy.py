#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What faster inference costs: AP and time of a trained model in all forms of docs/deployment.md.

    python benchmarks/bm_accuracy.py --config-file CONFIG --weights FILE [--proposals 500 300]
        [--floors 0.05 0.1 0.3 0.5] [--calibration-images 100] [--images N] [--threads 1]
        [--only NAME …] [--name NAME] [--out FOLDER] [--opts KEY VALUE …]

CONFIG is a yaml, whose first data set of DATASETS.TEST is predicted, and whose first of DATASETS.TRAIN
calibrates int8. All rows see each image in turns, in one process. Rows:

- "as built": the model without mrcnn_ext.deploy;
- "float32", and "bfloat16" where the hardware has it (else the reason): optimize();
- "N proposals": float32 with RPN.POST_NMS_TOPK_TEST N (default: half and 30 % of the config's);
- "no mask below S": float32 with min_mask_score S;
- "onnx", "onnx int8": the exported file, and the quantised one, in onnxruntime.

Time is in CPU seconds of the process, from the decoded image to COCO's records with the masks' run
lengths, as predict does it; "times as fast" is the median of the images' own ratios to "as built".
"parity" matches the detections with those of "as built". Written: accuracy_NAME.json and .md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from common import machine
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image

from mrcnn_ext.coco.read import read_json
from mrcnn_ext.config.load import load_config
from mrcnn_ext.data import register_datasets
from mrcnn_ext.data.registered import find_coco
from mrcnn_ext.deploy import export_onnx, optimize
from mrcnn_ext.deploy.parity import compare_detections, join
from mrcnn_ext.deploy.quantise import quantise_int8
from mrcnn_ext.evaluation.results_file import evaluate_results_file
from mrcnn_ext.files import write_json, write_text
from mrcnn_ext.precision import why_not
from mrcnn_ext.predict.exported import ExportedPredictor, detections_of, input_of
from mrcnn_ext.predict.predictor import Predictor
from mrcnn_ext.predict.writer import PredictionWriter

FIRST = "as built"
FLOORS = (0.05, 0.1, 0.3, 0.5)
TASKS = ("bbox", "segm", "keypoints")


def rows(args: argparse.Namespace, cfg, folder: Path) -> dict[str, object]:
    """By name a predictor, or why there is none."""

    def build(config=cfg, **options) -> Predictor:
        return Predictor(config, weights=args.weights, device="cpu", **options)

    found: dict[str, object] = {FIRST: build(optimized=False)}
    stock = found[FIRST]
    wanted = args.only or [""]

    def chosen(name: str) -> bool:
        return any(name.startswith(part) for part in wanted)

    if chosen("float32"):
        found["float32"] = build()
    missing = why_not(torch.bfloat16, torch.device("cpu"))
    if chosen("bfloat16"):
        found["bfloat16"] = missing or build(optimized=False)
        if not missing:
            model = optimize(found["bfloat16"].model, dtype="bfloat16", in_place=True)
            found["bfloat16"].model = model
    for number in args.proposals:
        if chosen(f"{number} proposals"):
            fewer = cfg.clone()
            fewer.MODEL.RPN.POST_NMS_TOPK_TEST = number
            found[f"{number} proposals"] = build(fewer)
    for floor in args.floors:
        if chosen(f"no mask below {floor}"):
            found[f"no mask below {floor}"] = build(min_mask_score=floor)
    if chosen("onnx") or chosen("onnx int8"):
        export_onnx(stock.model, folder / "model.onnx", input_of(stock))
    if chosen("onnx"):
        found["onnx"] = ExportedPredictor(folder / "model.onnx", device="cpu")
    if chosen("onnx int8"):
        images = [record["file_name"] for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])]
        quantise_int8(
            folder / "model.onnx", folder / "int8.onnx", images[: args.calibration_images]
        )
        found["onnx int8"] = ExportedPredictor(folder / "int8.onnx", device="cpu")
    return found


def make_writers(names: list[str], predictor: Predictor, dataset: list[dict], folder: Path) -> dict:
    ids = {str(Path(record["file_name"])): record["image_id"] for record in dataset}
    writers = {}
    for name in names:
        (folder / name).mkdir()
        writers[name] = PredictionWriter(folder / name, predictor.metadata, image_ids=ids)
    return writers


def run(predictors: dict, dataset: list[dict], writers: dict) -> tuple[dict, dict, list[int]]:
    """CPU seconds by row, the images' parities with the first, its numbers of detections."""
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    parities: dict[str, list] = {name: [] for name in predictors if name != FIRST}
    counts = []
    names = list(predictors)
    for index, record in enumerate(dataset):
        image = read_image(record["file_name"], "BGR")
        found = {}
        for name in np.roll(names, index):
            start = time.process_time()
            instances = predictors[name](image)["instances"].to("cpu")
            line = writers[name].line(str(Path(record["file_name"])), instances)
            seconds[name].append(time.process_time() - start)
            writers[name].append(line)
            found[name] = detections_of(instances)
        expected, masks = found.pop(FIRST)
        counts.append(len(expected))
        for name, (other, other_masks) in found.items():
            parities[name].append(compare_detections(expected, other, masks, other_masks))
        if index % 20 == 19:
            print(f"{index + 1} of {len(dataset)} images", flush=True)
    return seconds, parities, counts


def ground_truth(json_file: str, dataset: list[dict], folder: Path) -> str:
    """The json without the images that are not predicted."""
    content = read_json(json_file)
    ids = {record["image_id"] for record in dataset}
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    write_json(folder / "ground_truth.json", content)
    return str(folder / "ground_truth.json")


def average_precisions(dataset: str, results: Path, sigmas) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        found = evaluate_results_file(dataset, results, sigmas=sigmas)
    return {task: round(found[task]["AP"], 3) for task in TASKS if task in found}


def table(results: dict[str, dict]) -> str:
    tasks = list(results[FIRST]["AP"])
    lines = ["| | " + " | ".join([*(f"AP {task}" for task in tasks), "s", "times as fast"]) + " |"]
    lines.append("|---" * (len(tasks) + 3) + "|")
    for name, row in results.items():
        if "not measured" in row:
            lines.append(f"| {name} | not measured: {row['not measured']} |")
            continue
        precisions = [f"{row['AP'].get(task, float('nan')):.2f}" for task in tasks]
        cells = [*precisions, f"{row['median CPU s']:.3f}", f"{row['times as fast']:.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config-file", required=True, help="yaml, or name here")
    add("--weights", required=True)
    add("--proposals", type=int, nargs="+")
    add("--floors", type=float, nargs="*", default=FLOORS)
    add("--calibration-images", type=int, default=100)
    add("--images", type=int, help="the first N only")
    add("--threads", type=int, default=1)
    add("--only", nargs="+", help="rows whose names start so, besides the first")
    add("--name", help="of the files (default: the config's)")
    add("--out", type=Path, default=Path("output/benchmarks"))
    add("--opts", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cfg = load_config(args.config_file, args.opts)
    register_datasets(cfg)
    name = cfg.DATASETS.TEST[0]
    number = cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    args.proposals = args.proposals or [number // 2, number * 3 // 10]
    dataset = DatasetCatalog.get(name)[: args.images]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        predictors = rows(args, cfg, folder)
        missing = {k: v for k, v in predictors.items() if isinstance(v, str)}
        predictors = {k: v for k, v in predictors.items() if k not in missing}
        writers = make_writers(list(predictors), predictors[FIRST], dataset, folder)
        seconds, parities, counts = run(predictors, dataset, writers)
        truth = name
        if args.images:
            truth = ground_truth(find_coco(name).json_file, dataset, folder)
        results: dict[str, dict] = {}
        for row in (*predictors, *missing):
            if row in missing:
                results[row] = {"not measured": missing[row]}
                continue
            writers[row].close()
            ratios = [a / b for a, b in zip(seconds[FIRST], seconds[row])]
            results[row] = {
                "AP": average_precisions(
                    truth, folder / row / "coco_results.json", cfg.TEST.KEYPOINT_OKS_SIGMAS
                ),
                "median CPU s": statistics.median(seconds[row]),
                "times as fast": statistics.median(ratios),
            }
            if row in parities:
                joined = join(parities[row])
                results[row]["parity"] = {**asdict(joined), "same_pixels": joined.same_pixels}
        sizes = {p.stem: p.stat().st_size / 1e6 for p in folder.glob("*.onnx")}
    report = {
        "machine": machine(),
        "setting": {
            "config": args.config_file,
            "opts": args.opts,
            "weights": Path(args.weights).name,
            "images": len(dataset),
            "images without a detection": counts.count(0),
            "images with one": counts.count(1),
            "detections": sum(counts),
            "threads": args.threads,
            "calibration images": args.calibration_images,
            "files MB": sizes,
        },
        "results": results,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"accuracy_{args.name or Path(args.config_file).stem}"
    write_json(args.out / f"{stem}.json", report)
    write_text(args.out / f"{stem}.md", table(results))
    print(table(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
