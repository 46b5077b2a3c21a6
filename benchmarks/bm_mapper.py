# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Time of a training sample: this package's mapper against Detectron2's, and heavier augmentations.

    python benchmarks/bm_mapper.py --out mapper.json
    python benchmarks/bm_mapper.py --bands            # files of other bands, resized to 3/4

All run in one process and one thread, in turns: each round maps the same images by every mapper, in
an order that changes from round to round. The medians of the rounds are compared.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.detection_utils import read_image

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


def band_mappers(cfg, records: list[dict], folder: Path) -> dict[str, Callable]:
    """Mappers of the same images as files of other bands; the fourth and fifth are copies."""
    import tifffile

    made: dict[str, Callable] = {}
    for name, suffix, bands, kind in (
        ("3 bands, uint8, png", ".png", 3, "uint8"),
        ("5 bands, uint8, TIFF", ".tif", 5, "uint8"),
        ("5 bands, uint16, TIFF", ".tif", 5, "uint16"),
        ("5 bands, uint16, npy", ".npy", 5, "uint16"),
    ):
        own = cfg.clone()
        own.MRCNN_EXT.DATA.BANDS, own.MRCNN_EXT.DATA.PIXEL_TYPE = list(range(bands)), kind
        others = {}
        for record in records:
            image = read_image(record["file_name"], "RGB")
            file = folder / f"{bands}_{kind}_{Path(record['file_name']).stem}{suffix}"
            pixels = image[..., [0, 1, 2, 0, 1][:bands]].astype(kind) * (
                200 if kind != "uint8" else 1
            )
            if suffix == ".npy":
                np.save(file, pixels)
            elif suffix == ".tif":
                tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
            else:
                shutil.copy(record["file_name"], file)
            others[record["file_name"]] = str(file)
        mapper = TrainingMapper(own, True)
        made[name] = lambda record, mapper=mapper, others=others: mapper(  # type: ignore[misc]
            {**record, "file_name": others[record["file_name"]]}
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", type=int, default=512, help="of the images, and their short edge")
    parser.add_argument("--bands", action="store_true", help="files of other bands and types")
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
    mappers: dict[str, Callable] = {}
    if args.bands:
        cfg.INPUT.MIN_SIZE_TRAIN = (args.side * 3 // 4,)
        folder = tempfile.TemporaryDirectory()
        mappers = band_mappers(cfg, records, Path(folder.name))
    mappers["Detectron2"] = DatasetMapper(cfg, True)
    for name, entries in {} if args.bands else LISTS.items():
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
