# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What a mask head learns in a few hundred steps: the same small task for every head.

A few scenes of the synthetic set, their true boxes, a small pyramid trained from scratch along with the
head, one CPU thread, no detector. The masks are evaluated on the scenes of the training: this measures
how exact a mask the head can express, and how soon. A seed gives other results on another processor.
Some heads side by side:

    python -m tests.modeling.mask_heads.learning MrcnnExtPointRendMaskHead --seeds 0 1
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.layers import ShapeSpec, paste_masks_in_image
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_ext.data.shapes import SHAPES_CLASSES
from mrcnn_ext.data.shapes.scene import render_scene
from tests.helpers import small_cfg

IMAGE_SIZE = 192
NUM_SCENES = 24
IMAGES_PER_STEP = 4
SMALLEST_SIDE = 32  # pixels; in smaller boxes every head's mask is as good as another's
BOUNDARY_PIXELS = 2
CHANNELS = 32


@dataclass(frozen=True)
class MaskQuality:
    """Means over the objects, each in its true box; and the time of one step."""

    iou: float
    boundary_iou: float
    step_ms: float


class SmallPyramid(nn.Module):
    """p2 ... p5 of ``CHANNELS`` channels from an image, with a few convolutions for each level."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 32, 48, 64, 64]
        self.down = nn.ModuleList(_conv(a, b, stride=2) for a, b in zip(widths, widths[1:]))
        self.same = nn.ModuleList(_conv(width, width) for width in widths[2:])
        self.lateral = nn.ModuleList(nn.Conv2d(width, CHANNELS, 1) for width in widths[2:])
        self.output = nn.ModuleList(_conv(CHANNELS, CHANNELS) for _ in widths[2:])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, laterals = self.down[0](images), []
        for down, same, lateral in zip(self.down[1:], self.same, self.lateral):
            x = same(down(x))
            laterals.append(lateral(x))
        maps, above = {}, None
        for level in reversed(range(4)):
            x = laterals[level]
            if above is not None:
                x = x + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = x
            maps[f"p{level + 2}"] = self.output[level](x)
        return maps


def train_mask_head(
    name: str, *, steps: int = 300, seed: int = 0, options: Sequence = ()
) -> MaskQuality:
    """Train a registered mask head and measure its masks.

    Args:
        name: for ``MODEL.ROI_MASK_HEAD.NAME``.
        steps: of four images each.
        seed: of weights, order and jitter. The scenes are the same for each.
        options: further keys and values of the config.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(seed)
        head = ROI_MASK_HEAD_REGISTRY.get(name)(_config(name, options), _shapes())
        pyramid = SmallPyramid()
        start = time.perf_counter()
        _train(pyramid, head, steps, seed)
        step_ms = (time.perf_counter() - start) / steps * 1000
        return MaskQuality(*_evaluate(pyramid, head), step_ms)
    finally:
        torch.set_num_threads(threads)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(8, outputs), nn.ReLU())


def _config(name: str, options: Sequence):
    cfg = small_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(SHAPES_CLASSES)
    cfg.MODEL.ROI_HEADS.IN_FEATURES = list(_shapes())
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = CHANNELS
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True  # a few scenes have too few of each class
    cfg.merge_from_list(list(options))
    return cfg


def _shapes() -> dict[str, ShapeSpec]:
    return {f"p{level}": ShapeSpec(channels=CHANNELS, stride=2**level) for level in range(2, 6)}


@functools.lru_cache(maxsize=1)
def _scenes() -> list[tuple[Tensor, Instances]]:
    """Images, scaled, and the objects in them that are large enough."""
    scenes = []
    for index in range(NUM_SCENES):
        rng = np.random.default_rng([0, index])
        scene = render_scene(rng, IMAGE_SIZE, IMAGE_SIZE)
        masks = BitMasks(torch.from_numpy(scene.masks))
        boxes = masks.get_bounding_boxes()
        sides = boxes.tensor[:, 2:] - boxes.tensor[:, :2]
        keep = sides.amin(1) >= SMALLEST_SIDE
        instances = Instances((IMAGE_SIZE, IMAGE_SIZE))
        instances.gt_boxes, instances.gt_masks = boxes, masks
        instances.gt_classes = torch.tensor(scene.categories)
        image = torch.from_numpy(scene.image).float().permute(2, 0, 1)
        scenes.append(((image - 120) / 60, instances[keep]))
    return scenes


def _train(pyramid: nn.Module, head: nn.Module, steps: int, seed: int) -> None:
    model = nn.ModuleList([pyramid, head]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    generator = torch.Generator().manual_seed(seed)
    with EventStorage():
        for _ in range(steps):
            chosen = torch.randint(NUM_SCENES, (IMAGES_PER_STEP,), generator=generator).tolist()
            scenes = [_scenes()[index] for index in chosen]
            features = pyramid(torch.stack([image for image, _ in scenes]))
            losses = head(features, [_propose(x, generator) for _, x in scenes])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()


def _propose(truth: Instances, generator: torch.Generator) -> Instances:
    """The true boxes, each corner moved by up to a tenth of the side."""
    proposals = truth[:]
    boxes = truth.gt_boxes.tensor
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shift = (torch.rand(boxes.shape, generator=generator) * 2 - 1) * 0.1
    proposals.proposal_boxes = Boxes(boxes + shift * sides)
    return proposals


@torch.no_grad()
def _evaluate(pyramid: nn.Module, head: nn.Module) -> tuple[float, float]:
    pyramid.eval()
    head.eval()
    ious, boundary_ious = [], []
    for image, truth in _scenes():
        found = Instances(truth.image_size, pred_boxes=truth.gt_boxes)
        found.pred_classes = truth.gt_classes
        (found,) = head(pyramid(image[None]), [found])
        if len(found) == 0:
            continue
        masks = paste_masks_in_image(found.pred_masks[:, 0], found.pred_boxes, truth.image_size)
        for predicted, true in zip(masks.numpy(), truth.gt_masks.tensor.numpy()):
            ious.append(_iou(predicted, true))
            boundary_ious.append(_iou(_boundary(predicted), _boundary(true)))
    return float(np.mean(ious)), float(np.mean(boundary_ious))


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask within ``BOUNDARY_PIXELS`` of its outline (Cheng et al. 2021)."""
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=BOUNDARY_PIXELS)
    return mask & (inner[1:-1, 1:-1] == 0)


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="registered mask heads")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys, values")
    args = parser.parse_args()
    for name in args.names:
        for seed in args.seeds:
            quality = train_mask_head(name, steps=args.steps, seed=seed, options=args.opts)
            print(
                f"{name} seed {seed}: IoU {quality.iou:.3f}, boundary IoU "
                f"{quality.boundary_iou:.3f}, {quality.step_ms:.0f} ms a step",
                flush=True,
            )


if __name__ == "__main__":
    _main()
