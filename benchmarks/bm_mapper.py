# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Time of a training sample: this package's mapper against Detectron2's, and heavier augmentations.

    python benchmarks/bm_mapper.py --out mapper.json

All run in one process and one thread, in turns: each round maps the same images by every mapper, in
an order that changes from round to round. The medians of the rounds are compared.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper

from mrcnn_ext.config.load import default_config
from mrcnn_ext.data import TrainingMapper, register_datasets
from mrcnn_ext.files import write_json

LISTS = {
    "Default": ["Default"],
    "scale jitter, flip": [["ScaleJitter", {"size": 512}], "HorizontalFlip"],
    "scale jitter, flip, copy-paste": [
        ["ScaleJitter", {"size": 512}],
        "HorizontalFlip",
        ["CopyPaste", {"scale": None}],
    ],
    "all of these, rotation, colour, blur, noise, cutout": [
        ["ScaleJitter", {"size": 512}],
        "HorizontalFlip",
        ["CopyPaste", {"scale": None}],
        ["Rotation", {}],
        ["Colour", {}],
        ["Blur", {"probability": 1.0}],
        ["Noise", {"probability": 1.0}],
        ["Cutout", {"probability": 1.0}],
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", type=int, default=512, help="of the images, and their short edge")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cfg = default_config()
    cfg.INPUT.MASK_FORMAT, cfg.MODEL.MASK_ON = "bitmask", True
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (args.side,), 2 * args.side
    cfg.MRCNN_EXT.SHAPES.NUM_TRAIN = args.images
    cfg.MRCNN_EXT.SHAPES.IMAGE_SIZE = args.side
    register_datasets(cfg)
    records = DatasetCatalog.get("mrcnn_ext_shapes_train")[: args.images]
    mappers = {"Detectron2": DatasetMapper(cfg, True)}
    for name, entries in LISTS.items():
        cfg.MRCNN_EXT.DATA.AUGMENTATIONS = entries
        mappers[name] = TrainingMapper(cfg, True, dataset=records)
    times: dict[str, list[float]] = {name: [] for name in mappers}
    order = list(mappers)
    for number in range(args.rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            np.random.seed(number)
            start = time.perf_counter()
            for record in records:
                mappers[name](record)
            if number:  # the first warms up
                times[name].append((time.perf_counter() - start) / len(records))
    own = statistics.median(times["Detectron2"])
    result = {
        "processor": platform.processor() or platform.machine(),
        "threads": 1,
        "images": len(records),
        "side": args.side,
        "rounds": args.rounds,
        "mappers": {
            name: {"ms": 1e3 * statistics.median(t), "ratio": statistics.median(t) / own}
            for name, t in times.items()
        },
    }
    for name, row in result["mappers"].items():
        print(f"{row['ms']:8.1f} ms an image  {row['ratio']:5.2f} x  {name}")
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
