#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Masks into the image, as COCO's run lengths and dense, against Detectron2's paste and pycocotools.

    python benchmarks/bm_masks.py [--threads 1 2] [--out FOLDER] [--quick]

Both candidates run in this process, in turns, after a warm-up; a time is the median of the wall clock,
and of this process' CPU time, which tells more where other programs run, too. Their results are
compared before. Written to the folder: masks.json (everything), masks.md (the tables).

- "rle": from a mask head's output to COCO RLE dicts. Ours: masks_to_rle. Detectron2's:
  paste_masks_in_image, then pycocotools' encode as its COCOEvaluator calls it.
- "dense": to the (R, height, width) bool tensor. Ours: paste_masks; Detectron2's:
  paste_masks_in_image.

By how much a candidate raises the peak of the process' memory, its result included, is measured in
a new process each.

Masks are blobs with an outline of random bumps that reaches from edge to edge of its box and a rim as
soft as a trained head's (scores rise from 0.1 to 0.9 within 2 cells of a 28 x 28 mask). Boxes are as
an RPN's anchors: sides of 4 % to 64 % of the image's shorter side, evenly spread on a logarithmic
scale (32 to 512 of 800 pixels), aspect ratios of 1/2 to 2, clipped to the image.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycocotools
import torch
from common import machine, spread
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as mask_util

from mrcnn_ext.layers import masks_to_rle, paste_masks

IMAGES = ((480, 640), (800, 1333), (2000, 3000))
SIDES = (28, 112)


def make_boxes(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    side = 0.04 * min(height, width) * 16 ** torch.rand(count, generator=generator)
    ratio = 2 ** (torch.rand(count, generator=generator) - 0.5)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    half = torch.stack([side * ratio, side / ratio], 1) / 2
    boxes = torch.cat([centre - half, centre + half], 1)
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    return boxes


def make_masks(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    bumps = torch.randn(count, 1, 6, 6, generator=generator)
    bumps = torch.nn.functional.interpolate(bumps, (side, side), mode="bicubic")[:, 0]
    distance = 0.85 - (x**2 + y**2).sqrt() + 0.15 * bumps
    return (distance * 28).sigmoid()


def detectron2_rles(masks, boxes, size) -> list[dict]:
    return [
        mask_util.encode(np.array(mask.numpy()[:, :, None], order="F", dtype="uint8"))[0]
        for mask in paste_masks_in_image(masks, boxes, size)
    ]


CANDIDATES: dict[str, dict[str, Callable]] = {
    "rle": {"ours": masks_to_rle, "detectron2": detectron2_rles},
    "dense": {"ours": paste_masks, "detectron2": paste_masks_in_image},
}


def time_once(function: Callable, *arguments) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function(*arguments)
    elapsed = time.perf_counter() - clock, time.process_time() - processor
    del result  # freeing the result belongs to whoever uses it
    return elapsed


def medians(functions: dict[str, Callable], arguments: tuple, budget: float) -> dict[str, dict]:
    """Median of each, run in turns until the budget (seconds each) or 31 runs are used up.

    Five runs at least.
    """
    runs: dict[str, list] = {name: [] for name in functions}
    for function in functions.values():
        function(*arguments)
    for _ in range(31):
        for name, function in functions.items():
            if len(runs[name]) < 5 or sum(clock for clock, _ in runs[name]) < budget:
                runs[name].append(time_once(function, *arguments))
    result = {}
    for name, times in runs.items():
        clock, processor = zip(*times)
        result[name] = {
            **spread(clock),
            "processor_median_ms": 1e3 * statistics.median(processor),
        }
    return result


def _peak(kind: str, name: str, case: tuple, pipe) -> None:
    """In a process of its own: by how much the peak of its memory rises, in MB (Linux only)."""
    count, side, height, width = case
    torch.set_num_threads(1)
    masks, boxes = make_masks(count, side), make_boxes(count, height, width)
    function = CANDIDATES[kind][name]
    function(masks[:1], torch.tensor([[0.0, 0.0, 8.0, 8.0]]), (8, 8))  # loads libraries
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak until now
    before = _high_water()
    result = function(masks, boxes, (height, width))
    pipe.send((_high_water() - before) / 1024)
    del result


def _high_water() -> int:
    """The most memory that this process had at a time, in KB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def peak_memory(kind: str, name: str, case: tuple) -> float:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(kind, name, case, sender))
    process.start()
    sender.close()  # so that there is an end of the file if the process fails
    result = receiver.recv()
    process.join()
    return result


def measure(side: int, height: int, width: int, count: int, budget: float, memory: bool) -> dict:
    masks, boxes = make_masks(count, side), make_boxes(count, height, width)
    arguments = (masks, boxes, (height, width))
    assert masks_to_rle(*arguments) == detectron2_rles(*arguments)
    assert torch.equal(paste_masks(*arguments), paste_masks_in_image(*arguments))
    entry: dict = {
        "masks": count, "side": side, "height": height, "width": width,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    for kind, functions in CANDIDATES.items():
        entry[kind] = medians(functions, arguments, budget)
        if memory:
            for name in functions:
                case = (count, side, height, width)
                entry[kind][name]["peak_memory_mb"] = peak_memory(kind, name, case)
    return entry


def table(results: list[dict]) -> str:
    lines = [
        "| masks | image | threads | to | Detectron2, ms | ours, ms | ratio | ratio of CPU times | "
        "peak memory, MB: Detectron2 | ours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        for kind in CANDIDATES:
            ours, theirs = r[kind]["ours"], r[kind]["detectron2"]
            ratios = [theirs[key] / ours[key] for key in ("median_ms", "processor_median_ms")]
            memory = [
                f"{entry['peak_memory_mb']:.0f}" if "peak_memory_mb" in entry else ""
                for entry in (theirs, ours)
            ]
            lines.append(
                f"| {r['masks']} x {r['side']}x{r['side']} | {r['height']} x {r['width']} | "
                f"{r['threads']} | {kind} | {theirs['median_ms']:.0f} | {ours['median_ms']:.1f} | "
                f"{ratios[0]:.0f} | {ratios[1]:.0f} | {memory[0]} | {memory[1]} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for each candidate")
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    parser.add_argument("--quick", action="store_true", help="28 x 28 masks only, once each")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    here = machine(
        torch_cpu_capability=torch.backends.cpu.get_cpu_capability(),
        numpy=np.__version__,
        pycocotools=getattr(pycocotools, "__version__", "unknown"),
    )
    results = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for side in SIDES[:1] if args.quick else SIDES:
            for height, width in IMAGES:
                memory = not args.quick and threads == args.threads[0] and side == SIDES[0]
                results.append(measure(side, height, width, args.masks, args.budget, memory))
                print("\n".join(table(results[-1:]).splitlines()[2:]), flush=True)
                report = {"machine": here, "results": results}
                (args.out / "masks.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "masks.md").write_text(table(results))
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
