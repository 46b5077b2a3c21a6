# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Files of many bands, and data sets of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image


def pixels(bands: int, kind: str = "uint8", *, seed: int = 0, high: int = 200, size=(40, 52)):
    """(H, W, bands) of smooth values below ``high``, different in each band."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width] / max(size)
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform([2, 2, 0], [9, 9, 6], (bands, 3))]
    return ((np.stack(waves, -1) + 1) / 2 * high).astype(kind)


def write(path: Path, image: np.ndarray, **options) -> Path:
    """By the suffix; a TIFF's samples belong to pixels unless the options say otherwise."""
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix in (".tif", ".tiff"):
        several = {"planarconfig": "contig"} if image.shape[2] > 1 else {}
        data = image if several else image[..., 0]
        tifffile.imwrite(path, data, **{"photometric": "minisblack", **several, **options})
    else:
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path)
    return path


def write_dataset(
    folder: Path,
    *,
    bands: int = 5,
    kind: str = "uint16",
    suffix: str = ".tif",
    number: int = 4,
    scale: int = 1,
) -> tuple[str, str]:
    """A COCO json and its images: bright rectangles on smooth ground; returns both paths.

    ``scale`` is what values of 8 bits are multiplied with.
    """  # fmt: skip
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    content: dict = {
        "images": [], "annotations": [],
        "categories": [{"id": 1, "name": "field"}, {"id": 2, "name": "roof"}],
    }  # fmt: skip
    for index in range(number):
        image = pixels(bands, "int64", seed=index, high=90, size=(64, 80))
        for place, (x, y, w, h) in enumerate([(6 + index, 8, 30, 24), (44, 30, 28, 26)]):
            image[y : y + h, x : x + w] += 30 + 60 * ((np.arange(bands) + place) % 2)
            content["annotations"].append({
                "id": 2 * index + place + 1, "image_id": index + 1, "category_id": place + 1,
                "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            })  # fmt: skip
        file = write(images / f"{index}{suffix}", (image * scale).astype(kind))
        content["images"].append(
            {"id": index + 1, "file_name": file.name, "height": 64, "width": 80}
        )
    path = folder / "data.json"
    path.write_text(json.dumps(content))
    return str(path), str(images)


def use_bands(cfg, bands, kind: str = "uint8", *, mean=100.0, std=50.0):
    """Set the keys of bands."""
    cfg.MRCNN_EXT.DATA.BANDS, cfg.MRCNN_EXT.DATA.PIXEL_TYPE = list(bands), kind
    cfg.MODEL.PIXEL_MEAN = [mean + i for i in range(len(bands))]
    cfg.MODEL.PIXEL_STD = [std + i for i in range(len(bands))]
    return cfg
