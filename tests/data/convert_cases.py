# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Small files of each annotation format, of the same picture of 40 x 30 pixels."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from mrcnn_ext.coco.rle import to_rle
from mrcnn_ext.data.convert import Options, convert_to_coco

WIDTH, HEIGHT = 40, 30


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


SQUARE = block(5, 6, 15, 20)
RING = block(20, 5, 35, 25) & ~block(25, 10, 30, 15)


def picture(folder: Path, name: str = "a.png", size=(WIDTH, HEIGHT)) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)
    return file


def write(file: Path, content) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def convert(format: str, source: Path, tmp_path: Path, **options):
    """The data set that was written, and the builder."""
    out = tmp_path / "out" / "data.json"
    _, builder = convert_to_coco(format, source, out, Options(**options))
    return json.loads(out.read_text()), builder


def masks_of(content: dict) -> list[np.ndarray]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    return [
        mask_util.decode(to_rle(a["segmentation"], *sizes[a["image_id"]])) > 0
        for a in content["annotations"]
        if a.get("segmentation")
    ]


def class_of(content: dict, annotation: dict) -> str:
    return {c["id"]: c["name"] for c in content["categories"]}[annotation["category_id"]]


def png_base64(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pack_brush(mask: np.ndarray) -> list[int]:
    """Label Studio's encoding, written bit by bit; runs of three are repeated values."""
    values = np.repeat(mask.astype(np.uint8).ravel() * 255, 4)
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    ends = [*(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    start = 0
    for end in ends:
        while start < end:
            length = min(end - start, 256)
            if length == 4:  # one pixel: write its values out
                bits += "0" + "00" + f"{length - 1:03b}" + f"{values[start]:08b}" * length
            else:
                bits += "1" + "10" + f"{length - 1:08b}" + f"{values[start]:08b}"
            start += length
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def row_runs(mask: np.ndarray) -> str:
    """CVAT's runs of a mask, row by row."""
    flat = mask.ravel().astype(int)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return ", ".join(str(n) for n in np.diff([0, *ends, len(flat)]).tolist())


CVAT_LABELS = """
<label><name>part</name><attributes/></label>
<label><name>hand</name><type>skeleton</type><svg>&lt;line data-type="edge" data-node-from="1"
data-node-to="2"&gt;&lt;/line&gt;&lt;circle data-node-id="1" data-label-name="left_tip"&gt;
&lt;/circle&gt;&lt;circle data-node-id="2" data-label-name="right_tip"&gt;&lt;/circle&gt;</svg></label>
<label><name>left_tip</name><type>points</type><parent>hand</parent></label>
<label><name>right_tip</name><type>points</type><parent>hand</parent></label>
"""


def cvat(shapes: str, *, head: str = "", tail: str = "") -> str:
    return (
        f'<?xml version="1.0"?>{head}<annotations><version>1.1</version><meta><task><labels>'
        f'{CVAT_LABELS}</labels></task></meta><image id="0" name="a.png" width="{WIDTH}" '
        f'height="{HEIGHT}">{shapes}</image>{tail}</annotations>'
    )
