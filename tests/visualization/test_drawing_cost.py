# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Drawing costs time and memory in proportion to the boxes, not to pixels times objects."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances, ROIMasks

from mrcnn_ext.layers import paste_masks
from mrcnn_ext.structures import DeferredMaskInstances, DeferredMasks
from mrcnn_ext.visualization import draw_instances
from mrcnn_ext.visualization.primitives import Patch, tint

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _instances(form: str, height: int, width: int, number: int) -> Instances:
    """Blobs in boxes of a quarter of the picture's sides on average."""
    torch.manual_seed(0)
    size = torch.tensor([width, height]) / 2
    corners = torch.rand(number, 2) * size
    boxes = torch.cat([corners, corners + torch.rand(number, 2) * size], dim=1)
    small = torch.nn.functional.interpolate(torch.rand(number, 1, 6, 6), (28, 28), mode="bilinear")
    instances = DeferredMaskInstances((height, width))
    instances.pred_boxes, instances.scores = Boxes(boxes), torch.rand(number)
    instances.pred_classes = torch.zeros(number, dtype=torch.long)
    if form == "deferred":
        instances.pred_masks = DeferredMasks(small, boxes, (height, width))
    elif form == "roi":
        instances.pred_masks = ROIMasks(small[:, 0])
    else:
        instances.pred_masks = paste_masks(small[:, 0], boxes, (height, width))
    return instances


def _peak() -> float:
    return int(re.search(r"VmHWM:\s+(\d+)", _STATUS.read_text())[1]) / 1024


@pytest.mark.parametrize("form", ["deferred", "roi", "dense"])
def test_36_objects_on_12_megapixels(form):
    if not _RESET.exists():
        pytest.skip("the peak of memory is measured on Linux")
    image, metadata = np.full((3000, 4000, 3), 90, np.uint8), Metadata(thing_classes=["a"])
    instances = _instances(form, 3000, 4000, 36)
    draw_instances(image[:300, :400], _instances(form, 300, 400, 3), metadata)  # loads fonts
    _RESET.write_text("5")
    before, start = _peak(), time.process_time()
    picture = draw_instances(image, instances, metadata)
    seconds, megabytes = time.process_time() - start, _peak() - before
    assert (picture != 90).any(axis=2).mean() > 0.3
    assert seconds < 1.5  # of a processor
    assert megabytes < 150


@pytest.mark.parametrize("form", ["deferred", "roi"])
def test_all_forms_of_masks_give_the_same_picture(form):
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    expected = draw_instances(image, _instances("dense", 300, 400, 9))
    assert np.array_equal(draw_instances(image, _instances(form, 300, 400, 9)), expected)


@pytest.mark.parametrize("alpha", [0.22, 0.4, 1.0])
def test_tint_is_a_blend_of_the_masks_pixels(alpha):
    generator = np.random.default_rng(1)
    image = generator.integers(0, 256, (700, 900, 3), dtype=np.uint8)
    mask = generator.integers(0, 2, (600, 800), dtype=np.uint8)
    color = np.array([10.7, 200.2, 255.0])
    expected = image.copy()
    inside = np.zeros((700, 900), bool)
    inside[50:650, 60:860] = mask
    expected[inside] = (1 - alpha) * image[inside] + alpha * color
    tint(image, Patch(60, 50, mask), color, alpha)
    assert np.array_equal(image, expected)
    tint(image, Patch(0, 0, mask[:0, :0]), color, alpha)
    assert np.array_equal(image, expected)
