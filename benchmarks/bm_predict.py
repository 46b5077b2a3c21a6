#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A folder of images from files to pictures and json: this package's predict, Detectron2's loop.

    python benchmarks/bm_predict.py [--threads 2] [--images 6] [--detections 20] [--repeat 3]
        [--out FOLDER]

Both run Detectron2's ``mask_rcnn_R_50_FPN_3x.yaml`` with the same random weights on the same JPEG files
of 480 x 640 pixels, which become 800 x 1067, in one process and in turns. Detectron2's side is what its
documentation shows: ``DefaultPredictor``, ``Visualizer``, ``instances_to_coco_json``, one image after
the other. Ours is ``predict_sources``, as ``python -m mrcnn_ext.predict`` calls it. Models are loaded
before. Random weights give as many detections as one asks for, with masks that fill most of their
boxes; a trained model gives fewer, so their number is an option. Written: predict.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from bm_end_to_end import make_model
from common import machine, spread
from detectron2 import model_zoo
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils.visualizer import Visualizer

from mrcnn_ext.predict import Predictor, find_sources
from mrcnn_ext.predict.run import predict_sources
from mrcnn_ext.predict.writer import PredictionWriter

SIZE = (480, 640)


def make_images(folder: Path, count: int) -> None:
    """Smooth noise: JPEG files of the size that photos have."""
    generator = np.random.default_rng(0)
    for index in range(count):
        small = generator.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        image = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index:03d}.jpg"), image)


def make_config(folder: Path, detections: int):
    model = make_model("cpu")
    # Masks of noise would cost the peer's drawing of outlines more than any real mask.
    torch.nn.init.constant_(model.roi_heads.mask_head.predictor.bias, 2.0)
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = detections
    cfg.DATASETS.TEST = ("coco_2017_val",)
    return cfg


def detectron2_loop(predictor: DefaultPredictor, files: list[Path], out: Path) -> int:
    metadata = MetadataCatalog.get("coco_2017_val")
    out.mkdir()
    results = []
    for index, file in enumerate(files):
        image = read_image(str(file), "BGR")
        instances = predictor(image)["instances"].to("cpu")
        results += instances_to_coco_json(instances, index)
        drawn = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(instances)
        drawn.save(str(out / f"{file.stem}.png"))
    (out / "coco_results.json").write_text(json.dumps(results))
    return len(results)


def our_loop(predictor: Predictor, folder: Path, out: Path) -> int:
    writer = PredictionWriter(out, predictor.metadata)
    sources = find_sources([str(folder)])
    faults = predict_sources(
        predictor, sources, writer, score_threshold=0.0, pictures=out / "pictures"
    )
    assert not faults
    writer.close()
    return writer.results.num_instances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--detections", type=int, default=20, help="an image")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    times: dict[str, list[float]] = {"detectron2": [], "ours": []}
    counts = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        make_images(folder / "in", args.images)
        cfg = make_config(folder, args.detections)
        files = sorted((folder / "in").iterdir())
        stock, mine = DefaultPredictor(cfg), Predictor(cfg, device="cpu")
        runs = {
            "detectron2": lambda out: detectron2_loop(stock, files, out),
            "ours": lambda out: our_loop(mine, folder / "in", out),
        }
        for turn in range(args.repeat + 1):  # the first is the warm-up
            for kind, run in runs.items():
                start = time.perf_counter()
                counts[kind] = run(folder / f"{kind}{turn}")
                if turn:
                    times[kind].append(time.perf_counter() - start)
    ratio = statistics.median(a / b for a, b in zip(times["detectron2"], times["ours"]))
    report = {
        "machine": machine(),
        "setting": {**vars(args), "out": None, "size": SIZE, "instances": counts},
        **{kind: spread(values) for kind, values in times.items()},
        "ratio": ratio,
    }
    (args.out / "predict.json").write_text(json.dumps(report, indent=1) + "\n")
    each = {kind: statistics.median(values) / args.images for kind, values in times.items()}
    print(
        f"{args.images} images, {counts} instances, {args.threads} threads: Detectron2 "
        f"{each['detectron2']:.2f} s an image, ours {each['ours']:.2f} s, ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
