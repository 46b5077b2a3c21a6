#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predicted masks to COCO RLE, and to dense masks, against Detectron2 and pycocotools.

    python benchmarks/bm_masks.py [--threads 1 2] [--repeats 7] [--out FOLDER]

100 masks an image. Both candidates run in this process, in turns, after a warm-up; a time is the
median. Written to the folder: masks.json and masks.md. Masks are soft-edged wavy discs; boxes are
square, 3 to 60 % of the image's short side, clipped to the image.

- "rle": Detectron2's paste_masks_in_image and pycocotools' encode, against masks_to_rle.
- "dense": paste_masks_in_image against paste_masks.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.layers.mask_ops import paste_masks_in_image

from mrcnn_ext.layers import kernel_status, masks_to_rle, paste_masks

IMAGES = ((480, 640), (800, 1333), (2000, 3000))
SIDES = (28, 112)
COUNT = 100


def make_masks(side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    phases = 3 * torch.rand(COUNT, 1, 1, generator=generator)
    radius = 0.85 + 0.1 * torch.sin(5 * torch.atan2(y, x) + phases)
    return ((radius - (x**2 + y**2).sqrt()) * side / 3).sigmoid()


def make_boxes(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(COUNT, 2, generator=generator) * torch.tensor([width, height])
    sides = 0.03 * 20 ** torch.rand(COUNT, 1, generator=generator) * min(height, width)
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    return torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))


def paste_and_encode(masks: torch.Tensor, boxes: torch.Tensor, size) -> list[dict]:
    dense = paste_masks_in_image(masks, boxes, size)
    # As Detectron2's instances_to_coco_json does.
    return [
        mask_util.encode(np.array(mask[:, :, None], order="F", dtype="uint8"))[0] for mask in dense
    ]


def medians(functions, repeats: int) -> list[float]:
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, own in zip(functions, times):
            start = time.perf_counter()
            function()
            own.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(own) for own in times]


def measure(threads: int, repeats: int) -> list[dict]:
    torch.set_num_threads(threads)
    rows = []
    for size in IMAGES:
        for side in SIDES:
            masks, boxes = make_masks(side), make_boxes(*size)
            assert masks_to_rle(masks, boxes, size) == paste_and_encode(masks, boxes, size)
            cases = {
                "rle": (
                    lambda: paste_and_encode(masks, boxes, size),  # noqa: B023
                    lambda: masks_to_rle(masks, boxes, size),  # noqa: B023
                ),
                "dense": (
                    lambda: paste_masks_in_image(masks, boxes, size),  # noqa: B023
                    lambda: paste_masks(masks, boxes, size),  # noqa: B023
                ),
            }
            for name, functions in cases.items():
                theirs, ours = medians(functions, repeats)
                row = {"what": name, "image": size, "mask": side, "threads": threads}
                row |= {"detectron2_ms": theirs, "ours_ms": ours, "ratio": theirs / ours}
                rows.append(row)
                print(row, flush=True)
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        "| what | image | masks | threads | Detectron2, ms | ours, ms | ratio |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        height, width = row["image"]
        cells = [row["what"], f"{height} x {width}", f"{row['mask']} x {row['mask']}"]
        cells += [row["threads"], f"{row['detectron2_ms']:.0f}", f"{row['ours_ms']:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + f" | **{row['ratio']:.0f}x** |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    rows = [row for threads in args.threads for row in measure(threads, args.repeats)]
    args.out.mkdir(parents=True, exist_ok=True)
    about = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "kernels": kernel_status()[0].loaded,
        "masks": COUNT,
        "rows": rows,
    }
    (args.out / "masks.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    (args.out / "masks.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
