# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Random masks in random boxes, and what Detectron2 and pycocotools make of them.

``python -m tests.layers.mask_reference NUMBER`` compares that many cases in a process of its own, whose
environment chooses the code that runs; it prints which that is.
"""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.layers.mask_ops import _do_paste_mask
from pycocotools import mask as mask_util
from torch import Tensor
from torch.nn import functional as F

from mrcnn_ext.layers import kernel_status, masks_to_rle, paste_masks
from mrcnn_ext.layers.mask_paste.ops import compiled_arithmetic


@dataclass
class Case:
    masks: Tensor
    boxes: Tensor
    image_size: tuple[int, int]
    threshold: float


def make_case(seed: int) -> Case:
    """Masks of all kinds and sides, boxes clipped, tiny, huge, outside, inverted, not finite."""
    generator = random.Random(seed)
    torch.manual_seed(seed)
    number = generator.choice([1, 2, 5])
    height = generator.choice([1, 2, 3, 7, 14, 28, 28, 28, 56, 112])
    width = height if generator.random() < 0.7 else generator.randint(1, 40)
    image_size = (generator.randint(1, 90), generator.randint(1, 90))
    masks = _make_masks(generator, number, height, width)
    boxes = torch.tensor([_make_box(generator, *image_size) for _ in range(number)])
    value = float(masks.flatten()[0].abs().nan_to_num())  # a threshold that is met exactly
    threshold = generator.choice([0.5, 0.5, 0.5, 0.1, 0.25, 0.9, 0.0, 1.0, 1.5, value, math.inf])
    return Case(masks, boxes, image_size, threshold)


def _make_masks(generator: random.Random, number: int, height: int, width: int) -> Tensor:
    masks = torch.rand(number, height, width)
    kind = generator.randrange(8)
    if kind < 3:  # as a mask head's
        logits = torch.randn(number, 1, 4, 4) * 6
        size = (height, width)
        masks = F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0].sigmoid()
    elif kind == 3:
        masks = (masks > 0.5).float()
    elif kind == 4:
        masks = torch.randn(number, height, width) * 10 ** generator.uniform(-40, 38)
    elif kind == 5:
        odd = generator.choice([math.nan, math.inf, -math.inf, 3e38])
        masks[generator.randrange(number)].view(-1)[-1] = odd
    elif kind == 6:
        masks = torch.full_like(masks, generator.choice([0.0, 0.25, 0.5, 1.0]))
    return masks


def _make_box(generator: random.Random, height: int, width: int) -> list[float]:
    x = sorted(generator.uniform(-40, 130) for _ in range(2))
    y = sorted(generator.uniform(-40, 130) for _ in range(2))
    kind = generator.random()
    if kind < 0.4:
        x = [min(max(value, 0.0), float(width)) for value in x]
        y = [min(max(value, 0.0), float(height)) for value in y]
    elif kind < 0.5:
        x, y = [float(round(value)) for value in x], [float(round(value)) for value in y]
    elif kind < 0.55:
        x[1] = x[0]
    elif kind < 0.6:
        x[1] = x[0] + generator.uniform(-2, 2)
        y[1] = y[0] + 10 ** generator.uniform(-8, 1)
    elif kind < 0.65:
        scale = 10 ** generator.uniform(0, 20)
        x, y = [value * scale for value in x], [-abs(y[0]) * scale, abs(y[1]) * scale]
    elif kind < 0.7:
        odd = generator.choice([math.inf, -math.inf, math.nan])
        generator.choice([x, y])[generator.randrange(2)] = odd
    return [x[0], y[0], x[1], y[1]]


def reference(case: Case) -> Tensor:
    """(R, height, width) bool by Detectron2; zeros for boxes that it fails on."""
    images = torch.zeros(len(case.masks), *case.image_size, dtype=torch.bool)
    for index, (x0, y0, x1, y1) in enumerate(case.boxes.tolist()):
        # Detectron2 makes an integer of the region's corners, which needs them to be of that size.
        region = (max(x0, -1.0), max(y0, -1.0), min(x1, 1e4), min(y1, 1e4))
        if not all(math.isfinite(v) and abs(v) <= 1e4 for v in region):
            continue
        one = slice(index, index + 1)
        try:
            values, place = _do_paste_mask(
                case.masks[one, None], case.boxes[one], *case.image_size, skip_empty=True
            )
        except RuntimeError:  # an empty region
            continue
        images[(one, *place)] = values >= case.threshold
    return images


def encode(images: Tensor) -> list[dict]:
    return [mask_util.encode(np.asfortranarray(image.numpy().astype(np.uint8))) for image in images]


def check(case: Case) -> int:
    """Assert that dense masks and strings are the reference's; returns the masks' pixels."""
    arguments = (case.masks, case.boxes, case.image_size, case.threshold)
    expected = reference(case)
    assert torch.equal(paste_masks(*arguments), expected), case
    assert masks_to_rle(*arguments) == encode(expected), case
    return int(expected.sum())


def main() -> None:
    number = int(sys.argv[1])
    pixels = sum(check(make_case(seed)) for seed in range(number))
    capability = torch.backends.cpu.get_cpu_capability()
    kernels = kernel_status()[0].reason.rsplit("/", 1)[-1]
    print(
        f"{number} cases, {pixels} pixels; torch {capability}; {kernels}; {compiled_arithmetic()}"
    )


if __name__ == "__main__":
    main()
