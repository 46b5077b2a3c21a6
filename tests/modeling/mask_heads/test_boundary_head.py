# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The boundary-preserving mask head: targets, losses, layers, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.mask_heads import MrcnnExtBoundaryMaskHead
from mrcnn_ext.modeling.mask_heads.boundary_head import boundary_targets
from tests.modeling.mask_heads.harness import head_cfg, lazy_head, lazy_pooler, small_maps

NAME = "MrcnnExtBoundaryMaskHead"


def _small_head(**changes):
    arguments = {
        "pooler": lazy_pooler(7, 4, 8),
        "in_features": ["p2", "p3"],
        "resolution": 7,
        "conv_dim": 8,
        "num_conv": 1,
        "boundary_pooler": lazy_pooler(14, 4),
        "boundary_features": ["p2"],
    }
    return lazy_head(MrcnnExtBoundaryMaskHead, **{**arguments, **changes})


def _instances():
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 8:30] = masks[1, 20:60, 10:50] = masks[2, 5:15, 5:25] = True
    boxes = torch.tensor([[6.0, 7, 33, 41], [10, 20, 50, 60], [5, 5, 25, 15]])
    whole = Instances((64, 64), gt_masks=BitMasks(masks), gt_classes=torch.tensor([0, 2, 1]))
    whole.proposal_boxes = whole.gt_boxes = Boxes(boxes)
    return [whole[:2], whole[2:]]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_boundary_targets_against_plain_loops(seed, density):
    masks = np.random.default_rng(seed).random((2, 6, 6)) < density
    expected = np.zeros_like(masks)
    for r, y, x in np.ndindex(masks.shape):
        laplacian = 0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                inside = 0 <= y + dy < 6 and 0 <= x + dx < 6
                value = int(masks[r, y + dy, x + dx]) if inside else 0
                laplacian += value * (8 if dy == dx == 0 else -1)
        expected[r, y, x] = laplacian > 0.1
    assert torch.equal(boundary_targets(torch.from_numpy(masks)), torch.from_numpy(expected))


def test_losses_by_their_formulas():
    torch.manual_seed(0)
    head = _small_head(bce_weight=0.5, dice_weight=2.0, losses=["dice"], loss_weight=3.0).train()
    maps, instances = small_maps(), _instances()
    losses = head(maps, instances)
    assert losses.keys() == {"loss_mask", "loss_mask_boundary"}

    inputs = head._inputs(maps, instances, "proposal_boxes", "gt_classes")
    stages = [x.detach().double() for x in head.predict(inputs)]
    assert [x.shape for x in stages] == [(3, 3, 14, 14)] * 2
    boundary, mask = (x[torch.arange(3), torch.tensor([0, 2, 1])] for x in stages)
    target = head.targets(inputs, instances, mask).double()
    edge = boundary_targets(target).double()
    assert 0 < edge.sum() < target.sum()

    def dice(logits, truth):
        p = logits.sigmoid()
        terms = [
            (2 * (a * b).sum() + 1) / ((a * a).sum() + (b * b).sum() + 1) for a, b in zip(p, truth)
        ]
        return 1 - sum(terms) / len(terms)

    p = boundary.sigmoid()
    bce = -(edge * p.log() + (1 - edge) * (1 - p).log()).mean()
    assert float(losses["loss_mask"]) == pytest.approx(3 * float(dice(mask, target)), rel=1e-4)
    expected = 3 * (0.5 * bce + 2 * dice(boundary, edge))
    assert float(losses["loss_mask_boundary"]) == pytest.approx(float(expected), rel=1e-4)


def test_the_branches_feed_each_other():
    torch.manual_seed(0)
    head = _small_head().eval()
    inputs = head._inputs(small_maps(), _instances(), "proposal_boxes", "gt_classes")

    def gradients(stage):
        for layer in (head.mask_predictor, head.boundary_predictor):
            torch.nn.init.normal_(layer.weight)
        head.zero_grad()
        head.predict(inputs)[stage].square().sum().backward()
        return {name for name, p in head.named_parameters() if p.grad is not None}

    assert "mask_convs.0.weight" in gradients(0)  # the boundary sees the mask's features
    assert "boundary_reduction.weight" in gradients(1)  # the mask those of the boundary


def test_pooler_levels_and_words_for_wrong_ones():
    cfg = head_cfg(NAME)
    cfg.MRCNN_EXT.MASK_HEAD.POOLER_LEVELS = ["p3", "p4"]
    assert build_model(cfg).roi_heads.mask_head.boundary_features == ["p3"]
    cfg.MRCNN_EXT.MASK_HEAD.BOUNDARY.POOLER_LEVELS = ["p3", "p2"]
    head = build_model(cfg).roi_heads.mask_head
    assert head.boundary_features == ["p2", "p3"]
    assert head.boundary_pooler.output_size == (28, 28)
    cfg.MRCNN_EXT.MASK_HEAD.BOUNDARY.POOLER_LEVELS = ["p7"]
    with pytest.raises(ConfigError, match=r"BOUNDARY.POOLER_LEVELS names \['p7'\]"):
        build_model(cfg)
