# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Time of a training sample: this package's mapper against Detectron2's, and heavier augmentations.

    python benchmarks/bm_mapper.py --out mapper.json
    python benchmarks/bm_mapper.py --bands            # files of other bands, resized to 3/4

All run in one process and one thread, in turns: each round maps the same images by every mapper, in
an order that changes from round to round. CPU times are taken, so that other work on the machine
disturbs little, and the medians of the rounds are compared. "batch" is the largest batch of a process
that its workers fill in the time of a step of the device: workers x step / time of an image.
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
    "scale jitter, flip": [["ScaleJitter", {}], "HorizontalFlip"],
    "scale jitter, flip, copy-paste": [
        ["ScaleJitter", {}],
        "HorizontalFlip",
        ["CopyPaste", {"scale": None}],
    ],
    "all of these, rotation, colour, blur, noise, cutout": [
        ["ScaleJitter", {}],
        "HorizontalFlip",
        ["CopyPaste", {"scale": None}],
        ["Rotation", {}],
        ["Colour", {}],
        ["Blur", {"probability": 1.0}],
        ["Noise", {"probability": 1.0}],
        ["Cutout", {"probability": 1.0}],
    ],
}


def _sized(entry: str | list, side: int) -> str | list:
    """The entry with the benchmark's canvas."""
    if entry[0] == "ScaleJitter":
        return ["ScaleJitter", {"size": side}]
    return entry


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
    parser.add_argument("--dataset", help="a registered set (default: the synthetic one)")
    parser.add_argument("--mask-format", choices=("bitmask", "polygon"), default="bitmask")
    parser.add_argument("--step", type=float, default=150.0, help="of the device, in milliseconds")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--bands", action="store_true", help="files of other bands and types")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cfg = default_config()
    cfg.INPUT.MASK_FORMAT, cfg.MODEL.MASK_ON = args.mask_format, True
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (args.side,), 2 * args.side
    cfg.MRCNN_EXT.SHAPES.NUM_TRAIN = args.images
    cfg.MRCNN_EXT.SHAPES.IMAGE_SIZE = args.side
    register_datasets(cfg)
    records = DatasetCatalog.get(args.dataset or "mrcnn_ext_shapes_train")[: args.images]
    mappers: dict[str, Callable] = {}
    if args.bands:
        cfg.INPUT.MIN_SIZE_TRAIN = (args.side * 3 // 4,)
        folder = tempfile.TemporaryDirectory()
        mappers = band_mappers(cfg, records, Path(folder.name))
    mappers["Detectron2"] = DatasetMapper(cfg, True)
    for name, entries in {} if args.bands else LISTS.items():
        cfg.MRCNN_EXT.DATA.AUGMENTATIONS = [_sized(entry, args.side) for entry in entries]
        mappers[name] = TrainingMapper(cfg, True, dataset=records)
    times: dict[str, list[float]] = {name: [] for name in mappers}
    order = list(mappers)
    for number in range(args.rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            np.random.seed(number)
            start = time.process_time()
            for record in records:
                mappers[name](record)
            if number:  # the first warms up
                times[name].append((time.process_time() - start) / len(records))
    own = statistics.median(times["Detectron2"])
    result = {
        "processor": platform.processor() or platform.machine(),
        "threads": 1,
        "images": len(records),
        "dataset": args.dataset or "mrcnn_ext_shapes_train",
        "mask_format": args.mask_format,
        "side": args.side,
        "rounds": args.rounds,
        "step_ms": args.step,
        "workers": args.workers,
        "mappers": {
            name: {
                "ms": 1e3 * statistics.median(t),
                "ratio": statistics.median(t) / own,
                "batch": int(args.workers * args.step / (1e3 * statistics.median(t))),
            }
            for name, t in times.items()
        },
    }
    for name, row in result["mappers"].items():
        print(
            f"{row['ms']:8.1f} ms an image  {row['ratio']:5.2f} x  batch {row['batch']:4d}  {name}"
        )
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
