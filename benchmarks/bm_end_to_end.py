#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What fused RoIAlign saves in a whole model: Detectron2's Mask R-CNN R50-FPN, before and after.

    python benchmarks/bm_end_to_end.py [--threads 2] [--device cpu|cuda] [--repeat 3] [--size 800 1344]
        [--out FOLDER]

One model with random weights, whose poolers are swapped with ``swap_poolers`` and back; inference of
one image and one training step (forward and backward) on one image. The share of RoI pooling is what
torch's profiler counts for its ops; on CUDA, the time of their kernels. There everything runs a second
time under float16 autocast. Written: end_to_end.json and end_to_end.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from common import synchronize
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


def make_model(device: str) -> torch.nn.Module:
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE = device
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


def pooling_ms(step, model, batch, device: str) -> float:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
        step(model, batch)  # what is loaded and chosen on first use
    with torch.profiler.profile(activities=kinds) as profile:
        step(model, batch)
        synchronize(device)
    events = [e for e in profile.key_averages() if e.key in POOLING_OPS]
    field = "device_time_total" if device == "cuda" else "cpu_time_total"
    return sum(getattr(event, field) for event in events) / 1e3


def swap_back(model) -> None:
    for module in model.modules():
        if type(module) is FusedROIPooler:
            module.__class__ = ROIPooler


def measure(step, model, batch, device: str, repeat: int) -> dict:
    """Times of one step before and after, in turns; what the json holds of it."""
    times: dict[str, list[float]] = {"before": [], "after": []}
    pooling = {}
    for turn in range(repeat + 1):  # the first is the warm-up
        for name in times:
            swap_poolers(model) if name == "after" else swap_back(model)
            if turn == 0:
                pooling[name] = pooling_ms(step, model, batch, device)
                continue
            synchronize(device)
            start = time.perf_counter()
            step(model, batch)
            synchronize(device)
            times[name].append(1e3 * (time.perf_counter() - start))
    whole = {name: statistics.median(values) for name, values in times.items()}
    return {"whole_ms": whole, "pooling_ms": pooling, "all_ms": times}


def row(name: str, result: dict, digits: int) -> str:
    whole, pooling = result["whole_ms"], result["pooling_ms"]
    share = {when: 100 * pooling[when] / whole[when] for when in whole}
    return (
        f"| {name.replace('_', ' ')} | {whole['before']:.{digits}f} | {whole['after']:.{digits}f} | "
        f"{pooling['before']:.{digits}f} | {pooling['after']:.{digits}f} | {share['before']:.0f} % | "
        f"{share['after']:.1f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeat", type=int, help="default: 3, on CUDA 25")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344))
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    repeat = args.repeat or (25 if on_gpu else 3)
    torch.set_num_threads(args.threads)
    model, batch = make_model(args.device), make_input(*args.size)
    lines = [
        "| | whole, ms: before | after | RoI pooling, ms: before | after | share before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    setting = {"threads": args.threads, "size": list(args.size), "repeat": repeat}
    if on_gpu:
        setting |= {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    report: dict[str, dict] = {}
    for half in (False, True) if on_gpu else (False,):
        for step in (inference, training_step):
            name = step.__name__ + (" float16" if half else "")
            with torch.autocast("cuda", dtype=torch.float16, enabled=half):
                report[name] = measure(step, model, batch, args.device, repeat)
            lines.append(row(name, report[name], 2 if on_gpu else 0))
            print(lines[-1], flush=True)
            # Written as it goes: a run that is stopped leaves what it has.
            whole = json.dumps({**report, "setting": setting}, indent=1)
            (args.out / "end_to_end.json").write_text(whole + "\n")
            (args.out / "end_to_end.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
