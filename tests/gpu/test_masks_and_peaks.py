# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ops that have no CUDA kernels, on CUDA tensors: results are the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrcnn_ext.layers import (
    PackedPolygons,
    bicubic_peaks,
    bitmask_targets,
    masks_to_rle,
    paste_masks,
    polygon_mask_targets,
)
from mrcnn_ext.structures import DeferredMaskInstances, DeferredMasks, instance_rles
from tests.gpu import DEVICE, needs_gpu

pytestmark = needs_gpu

SIZE = (240, 320)


def make_masks(count=40, side=28):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 5, 5, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[:, 0].clamp(0, 1)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([280.0, 200.0]) - 15
    extent = 5 + torch.rand(count, 2, generator=generator) * 150
    return masks, torch.cat([corner, corner + extent], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("threshold", [0.5, -1])
def test_pasted_masks(dtype, threshold):
    masks, boxes = make_masks()
    boxes[3], boxes[4] = torch.nan, torch.tensor([1000.0, 1000, 1010, 1010])
    masks = masks.to(dtype)
    expected = paste_masks(masks, boxes, SIZE, threshold)
    actual = paste_masks(masks.to(DEVICE), boxes.to(DEVICE), SIZE, threshold)
    assert actual.device.type == DEVICE
    assert actual.dtype == expected.dtype
    # A value at the threshold, or at a step of the 256, may round to the other side.
    difference = (actual.cpu().int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < (1e-4 if threshold > 0 else 1e-2)


def test_rles_are_the_cpus_to_the_letter():
    masks, boxes = make_masks()
    assert masks_to_rle(masks.to(DEVICE), boxes.to(DEVICE), SIZE) == masks_to_rle(
        masks, boxes, SIZE
    )


def test_deferred_masks():
    masks, boxes = make_masks(10)
    rles = []
    for device in ("cpu", DEVICE):
        instances = DeferredMaskInstances(SIZE)
        instances.pred_masks = DeferredMasks(masks.to(device), boxes.to(device), SIZE)
        rles.append(instance_rles(instances))
        assert instances[:3].pred_masks.device.type == device
    assert rles[0] == rles[1]


def make_polygons(count=20):
    rng = np.random.default_rng(0)
    return PackedPolygons.from_lists(
        [
            [rng.uniform(0, 200, 2 * rng.integers(3, 9)) for _ in range(rng.integers(0, 3))]
            for _ in range(count)
        ]
    )


def test_mask_targets_of_polygons():
    packed, (_, boxes) = make_polygons(), make_masks(60)
    instances = torch.arange(60) % 20
    expected = polygon_mask_targets(packed, boxes, 28, instances)
    for where in (DEVICE, "cpu"):
        actual = polygon_mask_targets(packed, boxes.to(DEVICE), 28, instances.to(where))
        assert actual.device.type == DEVICE
        assert torch.equal(actual.cpu(), expected)


def test_mask_targets_of_polygons_in_a_row():
    """Memory that a copy still reads is not used again."""
    packed, (_, boxes) = make_polygons(), make_masks(20)
    moved = [(boxes + shift).to(DEVICE) for shift in range(30)]
    targets = [polygon_mask_targets(packed, item, 56) for item in moved]
    for shift, target in enumerate(targets):
        assert torch.equal(target.cpu(), polygon_mask_targets(packed, boxes + shift, 56))


@pytest.mark.parametrize("mask_device", ["cpu", DEVICE])
def test_mask_targets_of_bitmasks(mask_device):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 1, 12, 16, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, SIZE)[:, 0] > 0.5
    _, boxes = make_masks(60)
    boxes[5], boxes[6, 2:] = torch.nan, boxes[6, :2]
    instances = torch.arange(60) % 8
    expected = bitmask_targets(masks, boxes, 28, instances)
    actual = bitmask_targets(masks.to(mask_device), boxes.to(DEVICE), 28, instances.to(DEVICE))
    assert actual.device.type == mask_device
    assert (actual.cpu() != expected).float().mean() < 1e-3  # ties at one half


@pytest.mark.parametrize("trained_like", [False, True])
def test_peaks_of_heatmaps(trained_like):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(30, 17, 56, 56, generator=generator)
    if trained_like:
        place = torch.rand(30, 17, 2, 1, generator=generator) * 56
        distance = (torch.arange(56) - place).square()
        maps = maps / 100 + torch.exp(
            -(distance[:, :, 0, None, :] + distance[:, :, 1, :, None]) / 18
        )
    widths = torch.randint(1, 300, (30,), generator=generator)
    heights = torch.randint(1, 300, (30,), generator=generator)
    expected = bicubic_peaks(maps, widths, heights)
    actual = bicubic_peaks(maps.to(DEVICE), widths.to(DEVICE), heights.to(DEVICE))
    torch.testing.assert_close(actual[2].cpu(), expected[2], rtol=1e-5, atol=1e-5)
    same = (actual[0].cpu() == expected[0]) & (actual[1].cpu() == expected[1])
    assert same.float().mean() > 0.99  # pixels of the same height, to float32's rounding
