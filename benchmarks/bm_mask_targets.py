#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask targets against Detectron2's structures, alone and in a training step.

    python benchmarks/bm_mask_targets.py [--threads 1 2] [--skip-training] [--out FOLDER]

Alone: 512 boxes, polygons of 20 to 80 vertices in 1 to 3 parts, or 128 boxes of 10 full masks of
800 x 1344. In a training step: forward and backward of Mask R-CNN R50-FPN on one image of that size,
random weights; what is counted there is packing, indexing and cropping of ``gt_masks``. All candidates
run in this process, in turns, after a warm-up; a time is the median. On one thread it is processor
time, which other processes disturb little, otherwise wall time. Both give the same bits, which
is checked. Written: mask_targets.json and mask_targets.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from bm_end_to_end import make_input, make_model, training_step
from common import machine, spread
from detectron2.modeling import StandardROIHeads
from detectron2.structures import BitMasks, PolygonMasks

from mrcnn_ext.modeling.roi_heads import MrcnnExtStandardROIHeads, standard_heads
from mrcnn_ext.structures import IndexedBitMasks, PackedPolygonMasks

IMAGE = (800, 1344)
SIDES = (14, 28, 56, 112)


def outline(rng: np.random.Generator, centre, radius: float) -> np.ndarray:
    """A smooth closed curve of 20 to 80 vertices, as annotators draw it."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(20, 81)))
    wave = 0.2 * np.cos(rng.integers(1, 5) * angle) + 0.1 * np.cos(rng.integers(4, 9) * angle)
    reach = radius * (0.8 + wave + rng.normal(0, 0.02, angle.shape))
    return np.stack(
        [centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)], 1
    ).reshape(-1)


def make_polygons(count: int, seed: int = 0) -> tuple[list[list[np.ndarray]], torch.Tensor]:
    """Instances with radii of 16 to 256 pixels and a proposal for each, off by up to a fifth."""
    rng = np.random.default_rng(seed)
    polygons, boxes = [], []
    for _ in range(count):
        centre, radius = rng.uniform(150, 650, 2), 16 * 16 ** rng.random()
        polygons.append(
            [
                outline(rng, centre + rng.uniform(-radius / 2, radius / 2, 2), radius)
                for _ in range(rng.choice([1, 1, 1, 2, 3]))
            ]
        )
        shift = rng.uniform(-0.2, 0.2, 4) * radius
        boxes.append(np.concatenate([centre - radius, centre + radius]) + shift)
    return polygons, torch.tensor(np.array(boxes), dtype=torch.float32)


def now() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def time_once(function: Callable) -> float:
    start = now()
    result = function()
    elapsed = now() - start
    del result  # freeing the result belongs to whoever uses it
    return elapsed


def medians(functions: dict[str, Callable], budget: float) -> dict[str, dict]:
    """Median of each, run in turns until the budget (seconds each) or 51 runs are used up."""
    runs: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(52):  # the first is the warm-up
        for name, function in functions.items():
            if len(runs[name]) < 3 or sum(runs[name]) < budget:
                elapsed = time_once(function)
                runs[name] += [elapsed] if turn else []
    return {name: spread(times) for name, times in runs.items()}


def measure(case: str, candidates: dict[str, Callable], budget: float) -> dict:
    results = [function() for function in candidates.values()]
    if isinstance(results[0], torch.Tensor):
        assert all(torch.equal(results[0], other) for other in results[1:])
    times = medians(candidates, budget)
    # Once more by itself: after Detectron2's turn, the caches are Detectron2's.
    times["ours repeated"] = medians({"ours": candidates["ours"]}, budget)["ours"]
    ratio = times["detectron2"]["median_ms"] / times["ours"]["median_ms"]
    print(f"{case}: {ratio:.1f}", flush=True)
    return {"case": case, "threads": torch.get_num_threads(), "ratio": ratio, **times}


def alone(budget: float) -> list[dict]:
    polygons, boxes = make_polygons(512)
    stock, packed = PolygonMasks(polygons), PackedPolygonMasks(polygons)
    results = [
        measure(
            f"512 polygons, {side}x{side}",
            {
                "ours": lambda s=side: packed.crop_and_resize(boxes, s),
                "detectron2": lambda s=side: stock.crop_and_resize(boxes, s),
            },
            budget,
        )
        for side in SIDES
    ]
    chosen = torch.randint(0, 512, (512,))
    results.append(
        measure(
            "indexing 512 polygons",
            {"ours": lambda: packed[chosen], "detectron2": lambda: stock[chosen]},
            budget,
        )
    )
    polygons, boxes = make_polygons(10)
    full = BitMasks.from_polygon_masks(PolygonMasks(polygons), *IMAGE)
    indexed = IndexedBitMasks(full.tensor)
    chosen = torch.arange(128) % 10
    copies, own, boxes = full[chosen], indexed[chosen], boxes[chosen]
    results.append(
        measure(
            "128 boxes of 10 full masks, 28x28",
            {
                "ours": lambda: own.crop_and_resize(boxes, 28),
                "detectron2": lambda: copies.crop_and_resize(boxes, 28),
            },
            budget,
        )
    )
    results.append(
        measure(
            "indexing 10 full masks 128 times",
            {"ours": lambda: indexed[chosen], "detectron2": lambda: full[chosen]},
            budget,
        )
    )
    return results


class Stopwatch:
    """Time inside wrapped functions; a function that another one calls is not counted twice."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._running = False

    def wrap(self, function: Callable) -> Callable:
        def timed(*args, **kwargs):
            if self._running:
                return function(*args, **kwargs)
            self._running = True
            start = now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += now() - start
                self._running = False

        return timed


def timed_step(model, batch) -> tuple[float, float]:
    """Milliseconds of a training step, and of what it does with gt_masks."""
    watch = Stopwatch()
    with ExitStack() as stack:
        for kind in (PolygonMasks, BitMasks, PackedPolygonMasks, IndexedBitMasks):
            for name in ("__getitem__", "crop_and_resize"):
                timed = watch.wrap(getattr(kind, name))
                stack.enter_context(mock.patch.object(kind, name, timed))
        timed = watch.wrap(standard_heads.pack_gt_masks)
        stack.enter_context(mock.patch.object(standard_heads, "pack_gt_masks", timed))
        start = now()
        training_step(model, batch)
        return 1e3 * (now() - start), 1e3 * watch.seconds


def in_training(repeat: int) -> list[dict]:
    model, batch = make_model(), make_input(*IMAGE)
    instances = batch[0]["instances"]
    rng = np.random.default_rng(0)
    polygons = [
        [outline(rng, ((x0 + x1) / 2, (y0 + y1) / 2), float(min(x1 - x0, y1 - y0) / 2))]
        for x0, y0, x1, y1 in instances.gt_boxes.tensor.tolist()
    ]
    results = []
    for name, masks in (
        ("polygons", PolygonMasks(polygons)),
        ("full masks", BitMasks.from_polygon_masks(PolygonMasks(polygons), *IMAGE)),
    ):
        instances.gt_masks = masks
        times: dict[str, list] = {"detectron2": [], "ours": []}
        warm_up = 0 if results else 1
        for turn in range(repeat + warm_up):
            for heads, kind in (
                ("detectron2", StandardROIHeads),
                ("ours", MrcnnExtStandardROIHeads),
            ):
                model.roi_heads.__class__ = kind  # the poolers stay as they are
                result = timed_step(model, batch)
                if turn >= warm_up:
                    times[heads].append(result)
        entry = {"case": f"training step, {name}", "threads": torch.get_num_threads()}
        for heads, pairs in times.items():
            step, part = (statistics.median(values) for values in zip(*pairs))
            entry[heads] = {"step_ms": step, "masks_ms": part, "share": part / step, "all": pairs}
        results.append(entry)
        print(entry, flush=True)
    return results


def table(results: list[dict]) -> str:
    lines = [
        "| | threads | Detectron2, ms | ours in turns, ms | ratio | ours repeated, ms | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['case']} | {r['threads']} | {r['detectron2']['median_ms']:.2f} | "
        f"{r['ours']['median_ms']:.3f} | {r['ratio']:.0f} | {r['ours repeated']['median_ms']:.3f} | "
        f"{r['detectron2']['median_ms'] / r['ours repeated']['median_ms']:.0f} |"
        for r in results
        if "ratio" in r
    ]
    lines += ["", "| | threads | masks, ms: before | after | share before | after |"]
    lines.append("|---|---|---|---|---|---|")
    for r in results:
        if "ratio" not in r:
            old, new = r["detectron2"], r["ours"]
            lines.append(
                f"| {r['case']} | {r['threads']} | {old['masks_ms']:.1f} | {new['masks_ms']:.1f} | "
                f"{100 * old['share']:.1f} % | {100 * new['share']:.2f} % |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each candidate")
    parser.add_argument("--repeat", type=int, default=3, help="training steps of each kind")
    parser.add_argument("--skip-training", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        results += alone(args.budget)
    if not args.skip_training:
        torch.set_num_threads(args.threads[0])
        results += in_training(args.repeat)
    report = {"machine": machine(), "results": results}
    (args.out / "mask_targets.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "mask_targets.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
