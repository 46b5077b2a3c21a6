#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How much faster mrcnn_ext.deploy.optimize makes Detectron2's Mask R-CNN R50-FPN.

    python benchmarks/bm_inference.py [--threads 1 2] [--pairs 9] [--size 800 1344] [--steps]
        [--compile] [--device cpu|cuda] [--quick] [--out FOLDER]

Stock model and optimized model run in turns in one process, the stock one under no_grad; the ratio is
the median of the ratios of the pairs. Weights are random and SCORE_THRESH_TEST is 0, so that each image
has its 100 detections, which all go through the mask head: their number is printed. Masks are pasted
in both. Rows: float32; bfloat16 where the hardware has it (else the reason); with --steps float32 built
up step by step, and with 300 proposals; with --compile float32 compiled. --quick takes a small image,
few boxes and one pair: a trial of the script, no measurement. Written: inference.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from bm_end_to_end import make_input, make_model
from common import machine, synchronize
from torch import nn

from mrcnn_ext.deploy import optimize
from mrcnn_ext.deploy.fold import fold_norms
from mrcnn_ext.modeling import swap_poolers
from mrcnn_ext.precision import why_not

Change = Callable[[nn.Module], nn.Module]


def steps() -> Iterator[tuple[str, Change]]:
    """What optimize consists of, each step on top of those before."""
    done: list[Callable[[nn.Module], object]] = []
    for name, step in (
        ("fused pooler", swap_poolers),
        ("+ folded norms", fold_norms),
        ("+ channels_last", lambda model: model.to(memory_format=torch.channels_last)),
    ):
        done.append(step)
        yield name, partial(_apply, tuple(done))
    yield "+ fused passes and heads", _without_fewer_products


def _apply(changes: tuple, model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for change in changes:
        change(model)
    return model


def _without_fewer_products(model: nn.Module) -> nn.Module:
    fast = optimize(model, dtype="float32")
    for module in fast.modules():
        module._buffers.pop("transformed", None)
    return fast


def _with_300_proposals(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    model.proposal_generator.post_nms_topk[False] = 300
    return optimize(model, dtype="float32", in_place=True)


def seconds(model: nn.Module, batch: list[dict], device: str) -> float:
    """Of one image, with its masks pasted."""
    synchronize(device)
    start = time.perf_counter()
    with torch.no_grad():
        (result,) = model(batch)
        result["instances"].get_fields()  # pastes deferred masks
    synchronize(device)
    return time.perf_counter() - start


def measure(stock: nn.Module, other: nn.Module, batch: list[dict], device: str, pairs: int) -> dict:
    """Times of both in turns, after one image each."""
    for model in (stock, other):
        seconds(model, batch, device)
    times = [[seconds(model, batch, device) for model in (stock, other)] for _ in range(pairs)]
    ratios = sorted(a / b for a, b in times)
    return {
        "ratio": statistics.median(ratios),
        "lowest ratio": ratios[0],
        "highest ratio": ratios[-1],
        "stock s": statistics.median(a for a, _ in times),
        "optimized s": statistics.median(b for _, b in times),
        "pairs": pairs,
    }


def detections(model: nn.Module, batch: list[dict]) -> int:
    with torch.no_grad():
        return len(model(batch)[0]["instances"])


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Change | str]]:
    """Name and how to make the model, or why it is not measured."""
    if args.steps:
        yield from steps()
    yield "float32", partial(optimize, dtype="float32")
    if args.steps:
        yield "float32, 300 proposals", _with_300_proposals
    if args.compile:
        yield "float32, compiled", partial(optimize, dtype="float32", compile=True)
    missing = why_not(torch.bfloat16, torch.device(args.device))
    yield "bfloat16", missing or partial(optimize, dtype="bfloat16")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    if args.quick:
        args.size, args.pairs = (64, 96), 1
    stock = make_model(args.device).eval()
    if args.quick:
        stock.proposal_generator.post_nms_topk[False] = 20
        stock.roi_heads.box_predictor.test_topk_per_image = 3
    (inputs,) = make_input(*args.size)
    del inputs["instances"]
    report: dict = {
        "machine": machine(
            gpu=torch.cuda.get_device_name() if args.device == "cuda" else None,
            command=" ".join(["python", *map(os.path.relpath, sys.argv[:1]), *sys.argv[1:]]),
        ),
        "model": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml, random weights",
        "size": list(args.size),
        "quick": args.quick,
        "results": [],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, change in rows(args):
        other = None if isinstance(change, str) else change(stock)
        for threads in args.threads:
            row: dict = {"name": name, "threads": threads}
            if other is None:
                row["not measured"] = change
                print(f"{name}, {threads} threads: not measured, {change}", flush=True)
            else:
                torch.set_num_threads(threads)
                row |= measure(stock, other, [inputs], args.device, args.pairs)
                row["detections"] = [detections(m, [inputs]) for m in (stock, other)]
                print(
                    f"{name}, {threads} threads: {row['ratio']:.2f} times stock ({row['stock s']:.2f} "
                    f"-> {row['optimized s']:.2f} s, ratios {row['lowest ratio']:.2f} to "
                    f"{row['highest ratio']:.2f}), detections: {row['detections']}",
                    flush=True,
                )
            report["results"].append(row)
            # Written as it goes: a run that is stopped leaves what it has.
            (args.out / "inference.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
