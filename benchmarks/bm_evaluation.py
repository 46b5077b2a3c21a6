#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Time of an evaluation: Detectron2's COCOEvaluator (on pycocotools) against this package's.

    python benchmarks/bm_evaluation.py JSON [JSON …] [--per-image 100] [--repeat 3] [--out FOLDER]

Predictions are made up from the ground truth of each JSON: objects with jittered boxes and masks,
doubles, and objects put elsewhere with some class, up to --per-image. Only evaluate() is timed, what
follows inference, in CPU seconds of the process. Both get the same predictions, in turns, in one
process. Written: evaluation.json and evaluation.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.evaluation import COCOEvaluator
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from mrcnn_ext.evaluation import MrcnnExtCOCOEvaluator


def make_predictions(coco: COCO, classes: int, per_image: int) -> list[dict]:
    """What evaluators collect: a dict for each image, with records of the model's classes."""
    rng = np.random.default_rng(0)
    numbers = {category: n for n, category in enumerate(sorted(coco.cats))}
    predictions = []
    for image_id, image in coco.imgs.items():
        objects = [a for a in coco.imgToAnns[image_id] if not a.get("iscrowd")]
        records = []
        wanted = max(per_image, round(1.5 * len(objects))) if objects else 0
        for index in range(wanted):
            annotation = objects[index % len(objects)]
            kind = index // len(objects)  # 0: found; 1: found again, worse; else: somewhere else
            record = _jitter(rng, coco, annotation, image, (1.0, 3.0, None)[min(kind, 2)])
            if record is None:
                continue
            record["category_id"] = numbers[annotation["category_id"]]
            if kind > 1:
                record["category_id"] = int(rng.integers(classes))
            record["score"] = float(rng.beta(4, 2) if kind == 0 else rng.beta(1, 5))
            records.append(record)
        predictions.append({"image_id": image_id, "instances": records})
    return predictions


def _jitter(rng, coco: COCO, annotation: dict, image: dict, pixels: float | None) -> dict | None:
    x, y, w, h = annotation["bbox"]
    center = np.array([x + w / 2, y + h / 2])
    matrix = np.diag(1 + 0.05 * rng.normal(size=2))
    width, height = image["width"], image["height"]
    if pixels is None:
        target = rng.random(2) * (width, height)
    else:
        target = center + pixels * rng.normal(size=2)
    shift = target - matrix @ center
    transform = np.column_stack([matrix, shift])
    mask = cv2.warpAffine(coco.annToMask(annotation), transform, (width, height))
    if not mask.any():
        return None
    rle = mask_util.encode(np.asfortranarray(mask))
    rle["counts"] = rle["counts"].decode("ascii")
    record = {
        "image_id": annotation["image_id"],
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": rle,
    }
    if annotation.get("keypoints"):
        points = np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)
        points[:, :2] += target - center + (pixels or 3.0) * rng.normal(size=(len(points), 2))
        record["keypoints"] = points.ravel().tolist()
    return record


def time_evaluation(make: Callable, predictions: list[dict]) -> tuple[float, dict]:
    evaluator = make()
    evaluator.reset()
    evaluator._predictions = json.loads(json.dumps(predictions))  # evaluators change them
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.process_time()
        results = evaluator.evaluate()
        return time.process_time() - start, results


def benchmark(name: str, path: Path, args) -> dict:
    register_coco_instances(name, {}, str(path), "")
    load_coco_json(str(path), "", name)  # fills the metadata
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    predictions = make_predictions(coco, len(coco.cats), args.per_image)
    records = [record for entry in predictions for record in entry["instances"]]
    most = max(len(entry["instances"]) for entry in predictions)
    limit = max(100, most)
    tasks = ["bbox", "segm"] + (["keypoints"] if "keypoints" in records[0] else [])

    def stock():
        return COCOEvaluator(name, tasks, False, max_dets_per_image=limit, use_fast_impl=False)

    def ours(chosen=tuple(tasks), backend="auto"):
        return MrcnnExtCOCOEvaluator(name, chosen, False, max_dets_per_image=limit, backend=backend)

    variants = {
        "detectron2": stock,
        "mrcnn_ext": ours,
        "mrcnn_ext on pycocotools": lambda: ours(backend="pycocotools"),
        "mrcnn_ext with boundary and mask quality": lambda: ours(
            (*tasks, "boundary", "mask_quality")
        ),
    }
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    results = {}
    for turn in range(args.repeat + 1):  # the first is the warm-up
        for variant, make in variants.items():
            seconds, results[variant] = time_evaluation(make, predictions)
            if turn:
                times[variant].append(seconds)
    difference = max(
        abs(results["mrcnn_ext"][task][key] - value)
        for task in tasks
        for key, value in results["detectron2"][task].items()
        if value == value
    )
    medians = {variant: statistics.median(values) for variant, values in times.items()}
    return {
        "data": {
            "images": len(coco.imgs),
            "objects": len(coco.anns),
            "predictions": len(records),
            "most_in_an_image": most,
            "tasks": tasks,
        },
        "median_s": medians,
        "ratio": {variant: medians["detectron2"] / value for variant, value in medians.items()},
        "all_s": times,
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", nargs="+", type=Path)
    parser.add_argument(
        "--names", nargs="+", help="what to call them; by default, the files' names"
    )
    parser.add_argument("--per-image", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    report, lines = (
        {},
        ["| | " + " | ".join(["predictions", "seconds", "ratio"]) + " |", "|---" * 4 + "|"],
    )
    for name, path in zip(args.names or [path.stem for path in args.json], args.json):
        report[name] = entry = benchmark(name, path, args)
        for variant, seconds in entry["median_s"].items():
            lines.append(
                f"| {name}, {variant} | {entry['data']['predictions']} | {seconds:.2f} | "
                f"{entry['ratio'][variant]:.1f} |"
            )
            print(lines[-1], flush=True)
        print(f"largest difference of a number: {entry['largest_difference']:.1e}")
    args.out.mkdir(parents=True, exist_ok=True)
    report["setting"] = {"per_image": args.per_image, "repeat": args.repeat}
    (args.out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "evaluation.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
