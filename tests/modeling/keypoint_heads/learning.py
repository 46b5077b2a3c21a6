# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How exact do keypoints get in a few hundred steps? The same small task for every head.

Pictures of single figures of the synthetic set, each a region of its own, a few convolutions and the
head, trained from scratch, one CPU thread, fixed seed; errors on figures that were not seen. No
detector is in the way. Small regions are rendered small and enlarged, as pooling does. Heads side by
side:

    python -m tests.modeling.keypoint_heads.learning one_hot gaussian simcc rle --side 24 --seeds 0 1
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances, Keypoints
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_ext.data.shapes.figure import SHAPES_KEYPOINT_NAMES, figure
from mrcnn_ext.data.shapes.raster import coverage
from mrcnn_ext.modeling.keypoint_codecs import GaussianCodec, IntegralCodec, OneHotCodec, UDPCodec
from mrcnn_ext.modeling.keypoint_heads import (
    MrcnnExtHeatmapKeypointHead,
    MrcnnExtRegressionKeypointHead,
    MrcnnExtSimCCKeypointHead,
)

NUM_TRAIN, NUM_TEST = 1500, 200
BATCH = 32
INPUT = 56  # pixels of a region as the network sees it
CHANNELS = 32
NAMES = ("one_hot", "gaussian", "udp", "integral", "simcc", "rle")


@dataclass(frozen=True)
class KeypointQuality:
    """Over the keypoints of figures that were not seen.

    Attributes:
        error: mean distance from the truth, in pixels of the region.
        spearman: rank correlation of 1 - score with the distance.
        step_ms: time of one step.
    """

    error: float
    spearman: float
    step_ms: float


@functools.lru_cache(maxsize=4)
def _pictures(number: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """(N, 1, side, side) pictures and (N, 11, 2) keypoints, figures of various sizes and places."""
    images, points = [], []
    for index in range(number):
        rng = np.random.default_rng([seed, index])
        outline = figure(rng).transformed(_turn(rng.uniform(-0.5, 0.5)), np.zeros(2))
        x0, y0, x1, y1 = outline.bounds()
        # About as a proposal fits: a few percent too wide or too narrow on each side
        scale = side * rng.uniform(0.9, 1.04) / max(x1 - x0, y1 - y0)
        middle = np.array([x0 + x1, y0 + y1]) / 2
        shift = side / 2 - scale * middle + rng.uniform(-0.03, 0.03, 2) * side
        outline = outline.transformed(np.eye(2) * scale, shift)
        alpha = coverage(outline, (0, 0, side, side), samples=4)
        background, foreground = rng.uniform(0, 0.6), rng.uniform(0.4, 1.0)
        if abs(background - foreground) < 0.2:
            foreground = background + 0.3
        picture = background + (foreground - background) * alpha
        images.append(picture + rng.normal(0, 0.05, picture.shape))
        points.append(outline.keypoints)
    return torch.tensor(np.stack(images))[:, None].float(), torch.tensor(np.stack(points)).float()


def _turn(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _make_head(name: str) -> nn.Module:
    arguments = {
        "input_shape": ShapeSpec(channels=CHANNELS, height=INPUT // 4, width=INPUT // 4),
        "num_keypoints": len(SHAPES_KEYPOINT_NAMES),
        "conv_dims": [CHANNELS] * 3,
        "conv_norm": "GN",
        "loss_normalizer": "visible",
    }
    if name == "simcc":
        return MrcnnExtSimCCKeypointHead(bins=4 * INPUT, **arguments)
    if name == "rle":
        return MrcnnExtRegressionKeypointHead(fc_dim=128, **arguments)
    codec = {
        "one_hot": OneHotCodec,
        "gaussian": GaussianCodec,
        "udp": UDPCodec,
        "integral": IntegralCodec,
    }[name]()
    return MrcnnExtHeatmapKeypointHead(codec=codec, **arguments)


def _layers() -> nn.Sequential:
    widths = [(1, 24, 2), (24, CHANNELS, 2), (CHANNELS, CHANNELS, 1), (CHANNELS, CHANNELS, 1)]
    layers: list[nn.Module] = []
    for inputs, outputs, stride in widths:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        layers += [conv, nn.GroupNorm(8, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def train_keypoint_head(
    name: str, *, side: int = INPUT, steps: int = 400, seed: int = 0
) -> KeypointQuality:
    """Train a head and say how far its keypoints are off.

    Args:
        name: one of ``NAMES``.
        side: pixels of a region's side.
        steps: of ``BATCH`` regions each.
        seed: of weights and order. The pictures are the same for each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(seed)
        model = nn.ModuleDict({"layers": _layers(), "head": _make_head(name)})
        start = time.perf_counter()
        _train(model, side, steps)
        step_ms = (time.perf_counter() - start) / steps * 1000
        return KeypointQuality(*_evaluate(model, side), step_ms)
    finally:
        torch.set_num_threads(threads)


def _train(model: nn.ModuleDict, side: int, steps: int) -> None:
    images, points = _pictures(NUM_TRAIN, side, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    model.train()
    for _ in range(steps):
        chosen = torch.randint(NUM_TRAIN, (BATCH,))
        truth = _instances(side, BATCH, "proposal_boxes")
        visible = torch.full((BATCH, points.shape[1], 1), 2.0)
        truth.gt_keypoints = Keypoints(torch.cat([points[chosen], visible], dim=2))
        loss = model["head"](model["layers"](_enlarge(images[chosen])), [truth])["loss_keypoint"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _evaluate(model: nn.ModuleDict, side: int) -> tuple[float, float]:
    images, points = _pictures(NUM_TEST, side, 1)
    model.eval()
    found = _instances(side, NUM_TEST, "pred_boxes")
    found.pred_classes = torch.zeros(NUM_TEST, dtype=torch.int64)
    (found,) = model["head"](model["layers"](_enlarge(images)), [found])
    inside = ((points >= 0) & (points <= side)).all(dim=2)
    error = (found.pred_keypoints[..., :2] - points).norm(dim=2)[inside]
    doubt = 1 - found.pred_keypoints[..., 2][inside]
    return float(error.mean()), float(spearmanr(doubt, error).statistic)


def _enlarge(images: Tensor) -> Tensor:
    return F.interpolate(images, (INPUT, INPUT), mode="bilinear", align_corners=False) * 2 - 1


def _instances(side: int, number: int, field: str) -> Instances:
    boxes = torch.tensor([[0.0, 0.0, side, side]]).repeat(number, 1)
    return Instances((side, side), **{field: Boxes(boxes)})


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=NAMES)
    parser.add_argument("--side", type=int, nargs="+", default=[INPUT])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    for side in args.side:
        for name in args.names:
            for seed in args.seeds:
                quality = train_keypoint_head(name, side=side, steps=args.steps, seed=seed)
                print(
                    f"{name} side {side} seed {seed}: error {quality.error:.3f} px, Spearman "
                    f"{quality.spearman:.2f}, {quality.step_ms:.0f} ms a step",
                    flush=True,
                )


if __name__ == "__main__":
    _main()
