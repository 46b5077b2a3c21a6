#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Time and memory of a training step with and without the keys of MRCNN_EXT.COMPUTE.

    python benchmarks/bm_training_step.py [--config-file NAME] [--threads 2] [--images 2]
        [--size 448 448] [--repeat 9] [--device cpu|cuda] [--quick] [--out FOLDER] [--opts KEY VALUE …]

Each setting is a model of its own with the same random weights; forward, backward and an SGD step run
in turns with those of the others, in one process. With one thread on a CPU, time is CPU seconds.
Memory: what the forward pass keeps for the backward pass, and on CUDA the highest allocation.
Settings that need bfloat16 say why where the hardware has none. Written after each turn:
training_step.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from bm_end_to_end import make_input
from common import machine, synchronize
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from mrcnn_ext.config.load import load_config
from mrcnn_ext.precision import why_not

SETTINGS: dict[str, dict] = {
    "as it was": {},
    "channels_last": {"CHANNELS_LAST": True},
    "bfloat16": {"AUTOCAST": "bfloat16"},
    "channels_last, bfloat16": {"CHANNELS_LAST": True, "AUTOCAST": "bfloat16"},
    "recomputed backbone": {"CHECKPOINT_BACKBONE": True},
    "channels_last, recomputed backbone": {"CHANNELS_LAST": True, "CHECKPOINT_BACKBONE": True},
}


def make(cfg, keys: dict) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in keys.items():
        cfg.MRCNN_EXT.COMPUTE[key] = value
    torch.manual_seed(0)
    model = build_model(cfg).train()
    return model, build_optimizer(cfg, model)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: list[dict]) -> float:
    """Takes one; returns the sum of the losses."""
    torch.manual_seed(0)
    with EventStorage():
        loss = sum(model(batch).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def kept_bytes(model: torch.nn.Module, batch: list[dict]) -> int:
    """Bytes of the tensors that the forward pass keeps, weights and repetitions apart."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with EventStorage(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        losses = model(batch)  # held, so that no address is used twice
    del losses
    return sum(kept.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config-file", default="COCO-InstanceSegmentation/mask_rcnn_Lite0_FPN_1x.yaml")
    add("--threads", type=int, default=2)
    add("--images", type=int, default=2)
    add("--size", type=int, nargs=2, default=(448, 448))
    add("--repeat", type=int, default=9)
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--quick", action="store_true", help="one small image, two steps: a trial of the script")
    add("--out", type=Path, default=Path("output/benchmarks"))
    add("--opts", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    if args.quick:
        args.size, args.images, args.repeat = (64, 96), 1, 1
    torch.set_num_threads(args.threads)
    cfg = load_config(args.config_file, args.opts)
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", args.device
    cfg.SOLVER.BASE_LR = 0.0  # the same work in each step, and random weights do not diverge
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    batch = make_input(*args.size) * args.images
    batch[0]["instances"].gt_classes %= cfg.MODEL.ROI_HEADS.NUM_CLASSES
    missing = why_not(torch.bfloat16, torch.device(args.device))
    models, report = {}, {}
    for name, keys in SETTINGS.items():
        if "AUTOCAST" in keys and missing:
            report[name] = {"not measured": missing}
        else:
            models[name] = make(cfg, keys)
    times: dict[str, list[float]] = {name: [] for name in models}
    for name, (model, optimizer) in models.items():
        report[name] = {"MB kept": kept_bytes(model, batch) / 1e6}
        report[name]["loss"] = step(model, optimizer, batch)  # the first: from equal weights
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step(model, optimizer, batch)
            report[name]["MB highest"] = torch.cuda.max_memory_allocated() / 1e6
    args.out.mkdir(parents=True, exist_ok=True)
    setting = {"config": args.config_file, "images": args.images, "size": list(args.size)}
    setting |= {"threads": args.threads, "repeat": args.repeat, "quick": args.quick}
    whole = {"machine": machine(device=args.device), "setting": setting, "results": report}
    # One thread's CPU seconds do not count what else the machine does.
    clock = time.process_time if (args.device, args.threads) == ("cpu", 1) else time.perf_counter
    setting["seconds"] = "CPU" if clock is time.process_time else "wall clock"
    for turn in range(args.repeat):
        for name, (model, optimizer) in models.items():
            synchronize(args.device)
            start = clock()
            step(model, optimizer, batch)
            synchronize(args.device)
            times[name].append(clock() - start)
        for name, values in times.items():
            report[name]["median s"] = statistics.median(values)
            ratios = [a / b for a, b in zip(times["as it was"], values)]
            report[name]["times as fast"] = statistics.median(ratios)
            report[name]["lowest and highest"] = [min(ratios), max(ratios)]
        setting["turns"] = turn + 1
        # Written as it goes: a run that is stopped leaves what it has.
        (args.out / "training_step.json").write_text(json.dumps(whole, indent=1) + "\n")
    for name, row in report.items():
        print(name, row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
