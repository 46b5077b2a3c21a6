#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What fused RoIAlign saves in a whole model: Detectron2's Mask R-CNN R50-FPN, before and after.

    python benchmarks/bm_end_to_end.py [--threads 2] [--repeat 3] [--size 800 1344] [--out FOLDER]

One model with random weights, whose poolers are swapped with ``swap_poolers`` and back; inference of
one image and one training step (forward and backward) on one image. The share of RoI pooling is what
torch's profiler counts for its ops. Written: end_to_end.json and end_to_end.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

import mrcnn_ext  # noqa: F401
from mrcnn_ext.modeling import FusedROIPooler, swap_poolers

POOLING_OPS = (
    "torchvision::roi_align",
    "torchvision::_roi_align_backward",
    "mrcnn_ext::roi_align_pyramid",
    "mrcnn_ext::roi_align_pyramid_backward",
)


def make_model() -> torch.nn.Module:
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    # With random weights nothing is certain of anything; every image gives its 100 detections so.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    model = build_model(cfg)
    # Untrained regression would throw boxes far out of the image. Without it, proposals are anchors and
    # detections are proposals, so that as many boxes of as many sizes are pooled as in a trained model.
    for layer in (
        model.proposal_generator.rpn_head.anchor_deltas,
        model.roi_heads.box_predictor.bbox_pred,
    ):
        torch.nn.init.zeros_(layer.weight)
    return model


def make_input(height: int, width: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    image = (torch.rand(3, height, width, generator=generator) * 255).round().to(torch.uint8)
    count = 10
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.6, height * 0.6])
    size = 30 + torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.35
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + size], 1))
    instances.gt_classes = torch.randint(0, 80, (count,), generator=generator)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, instances.gt_boxes.tensor.long().tolist()):
        mask[y0:y1, x0:x1] = True
    instances.gt_masks = BitMasks(masks)
    return [{"image": image, "height": height, "width": width, "instances": instances}]


def inference(model, batch) -> None:
    model.eval()
    with torch.no_grad():
        model(batch)


def training_step(model, batch) -> None:
    model.train()
    torch.manual_seed(0)
    with EventStorage():  # where Detectron2's heads leave their statistics
        sum(model(batch).values()).backward()
    model.zero_grad()


def pooling_ms(step, model, batch) -> float:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step(model, batch)
    events = [e for e in profile.key_averages() if e.key in POOLING_OPS]
    return sum(event.cpu_time_total for event in events) / 1e3


def swap_back(model) -> None:
    for module in model.modules():
        if type(module) is FusedROIPooler:
            module.__class__ = ROIPooler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344))
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, batch = make_model(), make_input(*args.size)
    lines = [
        "| | whole, ms: before | after | RoI pooling, ms: before | after | share before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    report = {}
    for step in (inference, training_step):
        times: dict[str, list[float]] = {"before": [], "after": []}
        pooling = {}
        for turn in range(args.repeat + 1):  # the first is the warm-up
            for name in times:
                swap_poolers(model) if name == "after" else swap_back(model)
                if turn == 0:
                    pooling[name] = pooling_ms(step, model, batch)
                    continue
                start = time.perf_counter()
                step(model, batch)
                times[name].append(1e3 * (time.perf_counter() - start))
        whole = {name: statistics.median(values) for name, values in times.items()}
        report[step.__name__] = {"whole_ms": whole, "pooling_ms": pooling, "all_ms": times}
        share = {name: 100 * pooling[name] / whole[name] for name in whole}
        lines.append(
            f"| {step.__name__.replace('_', ' ')} | {whole['before']:.0f} | {whole['after']:.0f} | "
            f"{pooling['before']:.0f} | {pooling['after']:.0f} | {share['before']:.0f} % | "
            f"{share['after']:.1f} % |"
        )
        print(lines[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    report["setting"] = {"threads": args.threads, "size": list(args.size), "repeat": args.repeat}
    (args.out / "end_to_end.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "end_to_end.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
