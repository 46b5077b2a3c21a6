# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Measure parameters, FLOPs and time of each head for 100 RoIs, all in one process."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from fvcore.nn import FlopCountAnalysis
from torch import nn

from ..files import write_json
from .checks import run_settings
from .kind import HeadKind
from .kinds import MASK
from .plan import Plan

__all__ = ["HeadBranch", "measure_costs", "stored_costs", "update_costs"]

NUM_ROIS = 100
_WARM_UP, _ROUNDS = 2, 15


class HeadBranch(nn.Module):
    """From feature maps to masks or keypoints in given boxes, pooling included."""

    def __init__(
        self, roi_heads: nn.Module, names: list[str], given: Instances, kind: HeadKind
    ) -> None:
        """
        Args:
            roi_heads: in evaluation mode.
            names: of the feature maps, in the order of :meth:`forward`'s arguments.
            given: boxes and classes of one image.
            kind: of the head whose answer comes out.
        """
        super().__init__()
        self.roi_heads = roi_heads
        self.names = names
        self.given = given
        self.kind = kind

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        given = Instances(self.given.image_size, **self.given.get_fields())
        features = dict(zip(self.names, maps))
        (output,) = self.roi_heads.forward_with_given_boxes(features, [given])  # type: ignore[operator]
        return output.get(self.kind.field)


def stored_costs(plan: Plan) -> dict[str, dict]:
    """Of costs.json, by variant; empty if they were measured with other settings, or never."""
    file = plan.output / "costs.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return stored["heads"] if stored["key"] == _key(plan) else {}
    except (OSError, ValueError, KeyError, TypeError):  # damaged: they are measured again
        return {}


def update_costs(plan: Plan, check: Callable[[], None] = lambda: None) -> None:
    """Measure all heads and write costs.json, unless it is there with these settings.

    Args:
        check: called before costs are written; may raise. Tracing may take a signal's exception for a
            fault of the head.
    """
    if not stored_costs(plan):
        heads = measure_costs({v.name: plan.config(v, 1) for v in plan.variants}, plan.kind)
        check()
        write_json(plan.output / "costs.json", {"key": _key(plan), "heads": heads})


def _key(plan: Plan) -> str:
    """Changes with anything that costs depend on: they are measured together or not at all."""
    settings = {v.name: run_settings(plan, v, 1) for v in plan.variants}
    text = json.dumps([settings, torch.get_num_threads()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@torch.no_grad()
def measure_costs(configs: Mapping[str, object], kind: HeadKind = MASK) -> dict[str, dict]:
    """Build all heads and measure them in turn, so that what else the machine does hits all alike.

    Args:
        configs: complete configs by name.
        kind: what is measured; the other head is left out where the config bears it.

    Returns:
        by name: "parameters"; "milliseconds", the median of 15 rounds for 100 RoIs of one image, on
        random features; "gflops", where a multiply-add counts once, or None with "flops failed";
        "not counted", operators that fvcore has no formula for, with their number.
    """
    branches, maps = {}, {}
    for name, cfg in configs.items():
        branches[name], maps[name] = _branch(cfg, kind)
    times: dict[str, list[float]] = {name: [] for name in branches}
    for _ in range(_WARM_UP + _ROUNDS):
        for name, branch in branches.items():
            times[name].append(_seconds(branch, maps[name]))
    return {
        name: {
            "parameters": sum(p.numel() for p in kind.head(branch).parameters()),
            "milliseconds": 1000 * float(np.median(times[name][_WARM_UP:])),
            "rois": NUM_ROIS,
            "threads": torch.get_num_threads(),
            "device": str(maps[name][0].device),
            **_flops(branch, maps[name]),
        }
        for name, branch in branches.items()
    }


def _branch(cfg, kind: HeadKind) -> tuple[HeadBranch, list[torch.Tensor]]:
    cfg = cfg.clone()
    cfg.defrost()
    kind.isolate(cfg)  # the other head would be measured with it
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(cfg).eval()
        side = min(cfg.INPUT.MIN_SIZE_TEST or 800, 1024)
        device = next(model.parameters()).device
        shapes = model.backbone.output_shape()
        names = list(shapes)
        maps = [
            torch.rand(1, s.channels, -(-side // s.stride), -(-side // s.stride)).to(device)
            for s in shapes.values()
        ]
        corners = torch.rand(NUM_ROIS, 2) * side * 0.7
        sides = (0.05 + 0.25 * torch.rand(NUM_ROIS, 2)) * side
        given = Instances((side, side))
        given.pred_boxes = Boxes(torch.cat([corners, corners + sides], dim=1).to(device))
        classes = torch.randint(cfg.MODEL.ROI_HEADS.NUM_CLASSES, (NUM_ROIS,))
        given.pred_classes = classes.to(device)
    return HeadBranch(model.roi_heads, names, given, kind).eval(), maps


def _seconds(branch: HeadBranch, maps: list[torch.Tensor]) -> float:
    wait = torch.cuda.synchronize if maps[0].is_cuda else (lambda: None)
    wait()
    start = time.perf_counter()
    branch(*maps)
    wait()
    return time.perf_counter() - start


def _flops(branch: HeadBranch, maps: list[torch.Tensor]) -> dict:
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            analysis = FlopCountAnalysis(branch, tuple(maps))
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            total = analysis.total()
    except Exception as error:  # tracing runs anyone's code
        return {"gflops": None, "flops failed": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"gflops": total / 1e9, "not counted": dict(analysis.unsupported_ops())}
