#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoints: decoding against Detectron2's, and the cost of heads.

    python benchmarks/bm_keypoints.py [--threads 1] [--out FOLDER]

Decoding: 100 boxes x 17 keypoints x 56 x 56 logits, of three kinds: as a trained head makes them (a
mode, a lower second one, noise), what an untrained head makes (a bilinear enlargement of noise), noise.
Boxes of 200 x 400 pixels, or of sides from 7 to 400. Heads: the whole head on 8 RoIs of 256 x 14 x 14
in training (forward and backward) and at inference (with decoding), Detectron2's keypoint head first.
All candidates run in this process, in turns, after a warm-up; a time is the median. On one thread it is
processor time, which other processes disturb little, otherwise wall time. Written: keypoints.json and
keypoints.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from bm_mask_targets import medians
from common import machine
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import KRCNNConvDeconvUpsampleHead
from detectron2.structures import Boxes, Instances, Keypoints, heatmaps_to_keypoints
from torch.nn import functional as F

from mrcnn_ext.modeling.keypoint_codecs import (
    GaussianCodec,
    IntegralCodec,
    SimCCCodec,
    fast_heatmaps_to_keypoints,
)
from mrcnn_ext.modeling.keypoint_heads import (
    MrcnnExtHeatmapKeypointHead,
    MrcnnExtRegressionKeypointHead,
    MrcnnExtSimCCKeypointHead,
)

BOXES, KEYPOINTS, SIDE = 100, 17, 56
REGIONS = 8


def trained_like(generator: torch.Generator) -> torch.Tensor:
    cells = torch.arange(SIDE)
    maps = 0.3 * torch.randn(BOXES, KEYPOINTS, SIDE, SIDE, generator=generator) - 3
    for height in (10.0, 6.0):
        centre = torch.rand(BOXES, KEYPOINTS, 2, generator=generator) * SIDE - 0.5
        squares = (cells - centre[..., :1])[:, :, None].square()
        squares = squares + (cells - centre[..., 1:])[..., None].square()
        maps += height * torch.exp(-squares / 8)
    return maps


def make_maps(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "trained":
        return trained_like(generator)
    if kind == "noise":
        return torch.randn(BOXES, KEYPOINTS, SIDE, SIDE, generator=generator)
    small = torch.randn(BOXES, KEYPOINTS, SIDE // 2, SIDE // 2, generator=generator)
    return F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)


def make_boxes(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(BOXES, 2, generator=generator) * 300
    if kind == "200 x 400":
        sides = torch.tensor([[200.0, 400.0]]).expand(BOXES, 2)
    else:
        sides = torch.exp(torch.rand(BOXES, 2, generator=generator) * 4 + 2)
    return torch.cat([corner, corner + sides], dim=1)


def decoding(budget: float) -> list[dict]:
    results = []
    for boxes_kind in ("200 x 400", "7 to 400"):
        boxes = make_boxes(boxes_kind)
        for kind in ("trained", "untrained", "noise"):
            maps = make_maps(kind)
            theirs, ours = (
                heatmaps_to_keypoints(maps, boxes),
                fast_heatmaps_to_keypoints(maps, boxes),
            )
            differ = (theirs - ours)[..., :2].abs().amax(dim=2) > 1e-3
            candidates = {
                "detectron2": lambda m=maps, b=boxes: heatmaps_to_keypoints(m, b),
                "ours": lambda m=maps, b=boxes: fast_heatmaps_to_keypoints(m, b),
            }
            if kind == "trained":
                lines = tuple(torch.randn(2, BOXES, KEYPOINTS, 224))
                for name, codec, predictions in (
                    ("gaussian codec", GaussianCodec(), maps),
                    ("integral codec", IntegralCodec(), maps),
                    ("simcc codec", SimCCCodec(), lines),
                ):
                    candidates[name] = lambda c=codec, p=predictions, b=boxes: c.decode(p, b)
            times = medians(candidates, budget)
            # Once more by itself: after Detectron2's turn, the caches are Detectron2's.
            times["ours repeated"] = medians({"ours": candidates["ours"]}, budget)["ours"]
            ratio = times["detectron2"]["median_ms"] / times["ours"]["median_ms"]
            entry = {
                "case": f"{kind}, boxes of {boxes_kind}",
                "threads": torch.get_num_threads(),
                "ratio": ratio,
                "other_pixels": int(differ.sum()),
                "of": differ.numel(),
                **times,
            }
            print(entry["case"], f"{ratio:.1f}", int(differ.sum()), flush=True)
            results.append(entry)
    return results


def make_heads() -> dict[str, torch.nn.Module]:
    shape = ShapeSpec(channels=256, height=14, width=14)
    common = {"input_shape": shape, "num_keypoints": KEYPOINTS, "loss_normalizer": "visible"}
    wide = {**common, "conv_dims": [512] * 8}
    four = {**common, "conv_dims": [256] * 4}
    light = {**four, "light": True, "conv_norm": "GN"}
    torch.manual_seed(0)
    return {
        "KRCNNConvDeconvUpsampleHead, 8 x 512": KRCNNConvDeconvUpsampleHead(**wide),
        "heatmap, one_hot, 8 x 512": MrcnnExtHeatmapKeypointHead(**wide),
        "heatmap, gaussian, 8 x 512": MrcnnExtHeatmapKeypointHead(codec=GaussianCodec(), **wide),
        "heatmap, gaussian, 4 x 256": MrcnnExtHeatmapKeypointHead(codec=GaussianCodec(), **four),
        "heatmap, gaussian, 4 x 256 light": MrcnnExtHeatmapKeypointHead(
            codec=GaussianCodec(), **light
        ),
        "SimCC, 4 x 256 light": MrcnnExtSimCCKeypointHead(**light),
        "regression, 4 x 256 light": MrcnnExtRegressionKeypointHead(**light),
    }


def make_instances() -> tuple[list[Instances], list[Instances]]:
    boxes = make_boxes("200 x 400")[:REGIONS]
    points = torch.rand(REGIONS, KEYPOINTS, 3) * torch.tensor([200.0, 400.0, 0])
    points[..., :2] += boxes[:, None, :2]
    points[..., 2] = 2
    truth = Instances((800, 800), proposal_boxes=Boxes(boxes), gt_keypoints=Keypoints(points))
    found = Instances((800, 800), pred_boxes=Boxes(boxes))
    found.pred_classes = torch.zeros(REGIONS, dtype=torch.int64)
    return [truth], [found]


def heads(budget: float) -> list[dict]:
    features = torch.randn(REGIONS, 256, 14, 14)
    truth, found = make_instances()

    def train(head):
        head.train()
        head(features, truth)["loss_keypoint"].backward()
        head.zero_grad()

    def predict(head):
        head.eval()
        with torch.no_grad():
            head(features, found)

    modules = make_heads()
    steps = medians({name: lambda h=head: train(h) for name, head in modules.items()}, budget)
    tests = medians({name: lambda h=head: predict(h) for name, head in modules.items()}, budget)
    first = next(iter(modules))
    results = []
    for name, head in modules.items():
        parameters = [p for key, p in head.named_parameters() if not key.startswith("codec.")]
        results.append(
            {
                "head": name,
                "threads": torch.get_num_threads(),
                "parameters": sum(p.numel() for p in parameters),
                "train": steps[name],
                "test": tests[name],
                "train_ratio": steps[first]["median_ms"] / steps[name]["median_ms"],
                "test_ratio": tests[first]["median_ms"] / tests[name]["median_ms"],
            }
        )
        print(name, f"{results[-1]['train_ratio']:.1f} {results[-1]['test_ratio']:.1f}", flush=True)
    return results


def tables(decoded: list[dict], costs: list[dict]) -> str:
    lines = [
        "| heatmaps | Detectron2, ms | in turns, ms | ratio | repeated, ms | ratio | other pixels |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['case']} | {r['detectron2']['median_ms']:.0f} | {r['ours']['median_ms']:.1f} | "
        f"{r['ratio']:.0f} | {r['ours repeated']['median_ms']:.1f} | "
        f"{r['detectron2']['median_ms'] / r['ours repeated']['median_ms']:.0f} | "
        f"{r['other_pixels']} of {r['of']} |"
        for r in decoded
    ]
    lines += ["", "| head | parameters, M | training, ms | ratio | inference, ms | ratio |"]
    lines += ["|---|---|---|---|---|---|"]
    for r in costs:
        training = f"{r['train']['median_ms']:.0f} | {r['train_ratio']:.1f}"
        inference = f"{r['test']['median_ms']:.0f} | {r['test_ratio']:.1f}"
        size = f"{r['parameters'] / 1e6:.2f}"
        lines.append(f"| {r['head']} | {size} | {training} | {inference} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for each candidate")
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    decoded, costs = [], []
    for threads in args.threads:
        torch.set_num_threads(threads)
        decoded += decoding(args.budget)
    torch.set_num_threads(args.threads[0])
    costs += heads(args.budget)
    report = {"machine": machine(), "decoding": decoded, "heads": costs}
    (args.out / "keypoints.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "keypoints.md").write_text(tables(decoded, costs))
    print(tables(decoded, costs))


if __name__ == "__main__":
    main()
