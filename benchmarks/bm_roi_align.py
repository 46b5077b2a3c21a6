#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""RoIAlign over a pyramid against Detectron2's pooler, torchvision, and the memory's speed.

    python benchmarks/bm_roi_align.py [--threads 1 2] [--device cpu|cuda] [--out FOLDER] [--quick]

All candidates run in this process, in turns, after a warm-up; a time is the median. Written to the
folder: roi_align.json (everything), roi_align.md (the tables), roi_align.png (forward and backward as
multiples of the floor; on a CPU).

- "ours": FusedROIPooler, i.e. mrcnn_ext.layers.roi_align_pyramid with the gradients' op.
- "detectron2": its ROIPooler over torchvision's roi_align, as Detectron2 runs it.
- "torchvision": roi_align on each level's boxes, known beforehand: without the bookkeeping.
- "torchvision compiled" (CUDA only, first case in float32): the same through torch.compile.
- "floor": features and pooled values through memory once, at the speed of a copy in this process.

On CUDA, pixels are read once for each RoI that covers them, mostly from the L2 cache: "L2
floor" is what all RoIs read and write, at the speed of a copy in that cache. Tables show device times
(see cuda_times.py); in the json, "median_ms" is one call alone between two synchronizations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from common import machine, spread, synchronize
from cuda_times import graph_ms, l2_bandwidth, queued_ms
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes

import mrcnn_ext  # noqa: F401
from mrcnn_ext.modeling import FusedROIPooler

STRIDES = (4, 8, 16, 32)
SCALES = tuple(1 / stride for stride in STRIDES)
IMAGE = (800, 1344)
# (images, boxes an image, output side): the box and the mask head, in inference and in training.
CASES = ((1, 1000, 7), (1, 100, 14), (2, 512, 7), (2, 128, 14))
# On CUDA, the number of RoIs that fills a large GPU comes first.
CUDA_CASES = ((2, 1000, 7), *CASES)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def make_boxes(images: int, count: int, device: str) -> list[Boxes]:
    """Boxes as an RPN's anchors: sides of 32 to 512 pixels, aspect ratios of 1/2 to 2, clipped."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for _ in range(images):
        side = 32 * 16 ** torch.rand(count, generator=generator)
        ratio = 2 ** (torch.rand(count, generator=generator) - 0.5)
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([IMAGE[1], IMAGE[0]])
        half = torch.stack([side * ratio, side / ratio], 1) / 2
        boxes = Boxes(torch.cat([centre - half, centre + half], 1))
        boxes.clip(IMAGE)
        result.append(boxes.to(device))
    return result


def make_features(images: int, channels: int, dtype, layout, device: str) -> list[torch.Tensor]:
    generator = torch.Generator(device).manual_seed(1)
    return [
        torch.randn(
            (images, channels, IMAGE[0] // s, IMAGE[1] // s), generator=generator, device=device
        )
        .to(dtype)
        .to(memory_format=layout)
        for s in STRIDES
    ]


def torchvision_alone(boxes: list[Boxes], side: int) -> Callable:
    """Pool level by level, with the boxes of each level prepared outside of what is timed."""
    levels = assign_boxes_to_levels(boxes, 2, 5, 224, 4)
    rois = torch.cat(
        [torch.cat([torch.full_like(b.tensor[:, :1], i), b.tensor], 1) for i, b in enumerate(boxes)]
    )
    split = [rois[levels == level] for level in range(len(STRIDES))]

    def run(features, _):
        return torch.cat(
            [
                torchvision.ops.roi_align(f, r.to(f.dtype), side, scale, 0, True)
                for f, r, scale in zip(features, split, SCALES)
            ]
        )

    return run


def footprint(boxes: list[Boxes], side: int) -> int:
    """Pixels that all RoIs together read, at ``sampling_ratio`` 0, where samples skip no pixel."""
    levels = assign_boxes_to_levels(boxes, 2, 5, 224, 4).cpu()
    rows = torch.cat([b.tensor for b in boxes]).cpu()
    scale = torch.tensor(SCALES)[levels]
    pixels = torch.ones(len(rows), dtype=torch.int64)
    for low, high, extent in ((0, 2, IMAGE[1]), (1, 3, IMAGE[0])):
        start, end = rows[:, low] * scale - 0.5, rows[:, high] * scale - 0.5
        cell = (end - start) / side
        inset = cell / cell.ceil().clamp(min=1) / 2  # of the outermost samples
        last = (extent / torch.tensor(STRIDES)[levels]).long() - 1
        first_pixel = (start + inset).floor().long().clamp(min=0)
        last_pixel = torch.minimum((end - inset).floor().long().clamp(min=0) + 1, last)
        pixels *= (last_pixel - first_pixel + 1).clamp(min=1)
    return int(pixels.sum())


def time_once(function: Callable, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    result = function()
    synchronize(device)
    elapsed = time.perf_counter() - start
    del result  # freeing the result belongs to whoever uses it
    return elapsed


def medians(functions: dict[str, Callable], device: str, budget: float) -> dict[str, dict]:
    """Median of each, run in turns until the budget (seconds each) or 31 runs are used up.

    Three runs at least, but one of what takes longer than the budget already when it warms up.
    """
    first = {name: time_once(function, device) for name, function in functions.items()}
    runs = {name: [t] if t > max(budget, 5) else [] for name, t in first.items()}
    for _ in range(31):
        for name, function in functions.items():
            if first[name] <= max(budget, 5) and (len(runs[name]) < 3 or sum(runs[name]) < budget):
                runs[name].append(time_once(function, device))
    return {name: spread(times) for name, times in runs.items()}


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a copy reads and writes, of blocks larger than the caches."""
    source = torch.zeros(64 * 2**20, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(7):
        times.append(time_once(lambda: target.copy_(source), device))
    return 2 * source.numel() * 4 / statistics.median(times)


def supported(function: Callable) -> bool:
    try:
        function()
    except (RuntimeError, NotImplementedError):
        return False  # torchvision has no bfloat16 on the CPU
    return True


def measure(case, dtype_name: str, layout_name: str, device: str, channels: int, budget: float):
    """All candidates on one case; a dict for the json."""
    images, count, side = case
    layout = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}[layout_name]
    features = make_features(images, channels, DTYPES[dtype_name], layout, device)
    boxes = make_boxes(images, count, device)
    arguments = (side, SCALES, 0, "ROIAlignV2")
    poolers: dict[str, Callable] = {
        "ours": FusedROIPooler(*arguments),
        "detectron2": ROIPooler(*arguments),
        "torchvision": torchvision_alone(boxes, side),
    }
    if device == "cuda" and case == CUDA_CASES[0] and dtype_name == "float32":
        poolers["torchvision compiled"] = torch.compile(torchvision_alone(boxes, side))
    # A graph of a backward pass is recorded on the stream of the forward pass.
    stream = torch.cuda.Stream() if device == "cuda" else None
    with torch.no_grad():
        poolers = {k: p for k, p in poolers.items() if supported(lambda p=p: p(features, boxes))}
        calls = {name: (lambda p=p: p(features, boxes)) for name, p in poolers.items()}
        forward = medians(calls, device, budget)
        add_device_times(forward, calls, stream, not_recordable="detectron2")
    for feature in features:
        feature.requires_grad_()
    synchronize(device)
    with torch.cuda.stream(stream):  # None: stays where it is
        outputs = {name: pooler(features, boxes) for name, pooler in poolers.items()}
    synchronize(device)
    grad = torch.randn_like(outputs["ours"])
    calls = {
        name: (lambda o=o: torch.autograd.grad(o, features, grad, retain_graph=True))
        for name, o in outputs.items()
    }
    backward = medians(calls, device, budget)
    add_device_times(backward, calls, stream)
    moved = (sum(f.numel() for f in features) + grad.numel()) * grad.element_size()
    result = {
        "images": images, "boxes": count, "side": side, "dtype": dtype_name,
        "layout": layout_name, "channels": channels, "threads": torch.get_num_threads(),
        "floor_ms": 1e3 * moved / copy_bandwidth(device),
        "forward": forward, "backward": backward,
    }  # fmt: skip
    if device == "cuda":
        read = footprint(boxes, side) * channels * grad.element_size()
        written = grad.numel() * grad.element_size()
        result |= {"read_bytes": read, "l2_floor_ms": 1e3 * (read + written) / l2_bandwidth()}
    return result


def add_device_times(
    times: dict[str, dict], calls: dict[str, Callable], stream, not_recordable: str = ""
) -> None:
    """Add "device_ms" to each entry of ``times``, on CUDA.

    Detectron2's forward pass looks at indices on the host: it cannot be recorded.
    """
    for name, call in calls.items() if stream is not None else ():
        queue = name == not_recordable
        times[name]["device_ms"] = queued_ms(call) if queue else graph_ms(call, stream)
        times[name]["device_ms_by"] = "queue" if queue else "graph"


def milliseconds(entry: dict) -> float:
    return entry.get("device_ms", entry["median_ms"])


def short(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def table(results: list[dict]) -> str:
    if results and "l2_floor_ms" in results[0]:
        return cuda_table(results)
    lines = [
        "| images x boxes, output | dtype, layout | threads | pass | ours, ms | Detectron2 / ours | "
        "torchvision / ours | floor, ms | ours / floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        for step in ("forward", "backward"):
            times = {name: entry["median_ms"] for name, entry in r[step].items()}
            ours = times["ours"]
            ratio = [
                f"{times[peer] / ours:.1f}" if peer in times else "no such op"
                for peer in ("detectron2", "torchvision")
            ]
            lines.append(
                f"| {r['images']} x {r['boxes']}, {r['side']}x{r['side']} | {r['dtype']}, "
                f"{r['layout']} | {r['threads']} | {step} | {ours:.1f} | {ratio[0]} | {ratio[1]} | "
                f"{r['floor_ms']:.1f} | {ours / r['floor_ms']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def cuda_table(results: list[dict]) -> str:
    lines = [
        "| images x boxes, output | dtype, layout | pass | ours, ms | Detectron2 | torchvision | "
        "compiled | Detectron2 / ours | torchvision / ours | floor, ms | L2 floor, ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        for step in ("forward", "backward"):
            times = {name: milliseconds(entry) for name, entry in r[step].items()}
            peers = ("detectron2", "torchvision", "torchvision compiled")
            shown = [short(times[peer]) if peer in times else "" for peer in peers]
            ratios = [
                f"{times[peer] / times['ours']:.1f}" if peer in times else "no such op"
                for peer in peers[:2]
            ]
            floors = [short(r["floor_ms"]), short(r["l2_floor_ms"]) if step == "forward" else ""]
            cells = [
                f"{r['images']} x {r['boxes']}, {r['side']}x{r['side']}",
                f"{r['dtype']}, {r['layout']}", step, short(times["ours"]), *shown, *ratios, *floors,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [r for r in results if r["dtype"] == "float32"]
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.42 * len(shown) + 2), sharey=True)
    labels = [
        f"{r['images']}x{r['boxes']}, {r['side']}x{r['side']}, {r['layout']}, "
        f"{r['threads']} thread{'s' * (r['threads'] > 1)}"
        for r in shown
    ]
    markers = {"ours": ("o", "C0"), "torchvision": ("s", "C7"), "detectron2": ("D", "C3")}
    for axis, step in zip(axes, ("forward", "backward")):
        for name, (marker, colour) in markers.items():
            values = [r[step][name]["median_ms"] / r["floor_ms"] for r in shown]
            axis.scatter(values, range(len(shown)), marker=marker, color=colour, label=name)
        axis.axvline(1, color="black", linewidth=1, linestyle=":")
        axis.set_xscale("log")
        axis.set_xlabel("time as a multiple of moving the data once")
        axis.set_title(step)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(shown)), labels)
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower center")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for each candidate")
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    parser.add_argument("--quick", action="store_true", help="the first case in float32 only")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    on_gpu = args.device == "cuda"
    here = machine(
        gpu=torch.cuda.get_device_name() if on_gpu else None,
        cuda=torch.version.cuda if on_gpu else None,
    )
    results = []
    for threads in args.threads if args.device == "cpu" else args.threads[:1]:
        torch.set_num_threads(threads)
        cases = CUDA_CASES if on_gpu else CASES
        for case in cases[:1] if args.quick else cases:
            # Half precision on the first case and thread count only: torchvision's is very slow there.
            one = args.quick or case != cases[0] or threads != args.threads[0]
            for dtype in ("float32",) if one else DTYPES:
                for layout in ("channels_last", "NCHW"):
                    results.append(
                        measure(case, dtype, layout, args.device, args.channels, args.budget)
                    )
                    print(table(results[-1:]).splitlines()[2], flush=True)
                    print(table(results[-1:]).splitlines()[3], flush=True)
                    report = {"machine": here, "results": results}
                    (args.out / "roi_align.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "roi_align.md").write_text(table(results))
    if args.device == "cpu":
        plot(results, args.out / "roi_align.png")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
