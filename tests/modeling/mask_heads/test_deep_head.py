# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The deep mask head: its hourglass, its regions in training, and what it learns."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch.nn import functional as F

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.mask_heads import MrcnnExtDeepMaskHead
from mrcnn_ext.modeling.mask_heads.deep_head import HOURGLASSES, Hourglass, ResidualBlock
from tests.helpers import random_inputs, train_step
from tests.modeling.mask_heads.harness import head_cfg, lazy_head, lazy_pooler

NAME = "MrcnnExtDeepMaskHead"


def _small_head(**changes):
    arguments = {
        "pooler": lazy_pooler(8, 4),
        "in_features": ["p2"],
        "resolution": 8,
        "depth": 10,
        "conv_dim": 4,
    }
    return lazy_head(MrcnnExtDeepMaskHead, **{**arguments, **changes})


def _instances():
    """6 proposals of an image on 3 objects, and none on another image."""
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 8:30] = masks[1, 20:60, 10:50] = masks[2, 5:15, 5:25] = True
    boxes = torch.tensor([[8.0, 8, 30, 40], [10, 20, 50, 60], [5, 5, 25, 15]])
    matched = torch.tensor([1, 1, 0, 1, 2, 0])
    x = Instances((64, 64), gt_masks=BitMasks(masks[matched]), gt_boxes=Boxes(boxes[matched]))
    x.gt_classes = matched.clone()
    x.proposal_boxes = Boxes(boxes[matched] + torch.arange(6.0)[:, None])
    return [x, x[:0]]


# ---- Layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (7, 7), (13, 5), (1, 1)])
@pytest.mark.parametrize("depth", HOURGLASSES)
def test_an_hourglass_keeps_any_size(depth, size):
    blocks, factors = HOURGLASSES[depth]
    network = Hourglass(list(blocks), [2 * factor for factor in factors])
    assert network(torch.randn(2, 4, *size)).shape == (2, 4, *size)
    assert network(torch.randn(0, 4, *size)).shape == (0, 4, *size)


@pytest.mark.parametrize("depth", HOURGLASSES)
def test_layers_on_the_longest_path(depth):
    head = _small_head(depth=depth)
    skips = [name for name, _ in head.named_modules() if name.endswith(("skip", "shortcut"))]
    layers = [
        name
        for name, module in head.named_modules()
        if isinstance(module, Conv2d) and not any(name.startswith(skip) for skip in skips)
    ]
    # The prediction is not counted, as in the papers.
    assert len(layers) - 1 == depth


def test_hourglass_by_its_equation():
    torch.manual_seed(0)
    network = Hourglass([1, 1], [4, 6]).double()
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            torch.nn.init.normal_(module.conv2.weight, std=0.1)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)

    def residual(block, x):
        a, b = block.conv1, block.conv2
        y = F.conv2d(x, a.weight, a.bias, stride=a.stride, padding=1).relu()
        y = F.conv2d(y, b.weight, b.bias, padding=1)
        c = block.shortcut
        if not isinstance(c, torch.nn.Identity):
            x = F.conv2d(x, c.weight, c.bias, stride=c.stride)
        return (y + x).relu()

    low = residual(network.up[0], residual(network.inside[0], residual(network.down[0], x)))
    assert low.shape == (1, 4, 3, 3)
    nearest = low[:, :, [0, 0, 1, 1, 2]][..., [0, 0, 1, 1, 2]]
    torch.testing.assert_close(network(x), residual(network.skip[0], x) + nearest)


@pytest.mark.parametrize("norm", ["", "GN", "BN"])
def test_a_block_starts_as_its_shortcut(norm):
    block = ResidualBlock(32, 32, norm=norm)
    x = torch.rand(2, 32, 4, 4)
    assert torch.equal(block(x), x)


def test_norms_bear_batches_without_rois():
    for norm in ("GN", "BN"):
        head = _small_head(conv_norm=norm, conv_dim=32).train()
        none = [x[:0] for x in _instances()]
        loss = head({"p2": torch.randn(2, 6, 16, 16)}, none)["loss_mask"]
        loss.backward()
        assert loss == 0
        assert all(p.grad is not None for p in head.parameters())
        assert all(torch.isfinite(value).all() for value in head.state_dict().values())


# ---- Regions ---------------------------------------------------------------------------------------


def _regions(head, instances):
    seen = []
    predict = head.predict
    head.predict = lambda inputs: seen.append(inputs) or predict(inputs)
    losses = head({"p2": torch.randn(2, 6, 16, 16)}, instances)
    assert torch.isfinite(losses["loss_mask"])
    return [boxes.tensor for boxes in seen[0].boxes], seen[0].classes


def test_training_regions_are_the_ground_truth_boxes():
    instances = _instances()
    before = instances[0].proposal_boxes.tensor.clone()
    truth = instances[0].gt_boxes.tensor
    (boxes, none), classes = _regions(_small_head(max_boxes_per_image=0).train(), instances)
    # Different objects first, in the order they come in, then the others
    order = [0, 2, 4, 1, 3, 5]
    assert torch.equal(boxes, truth[order])
    assert torch.equal(classes, instances[0].gt_classes[order])
    assert none.shape == (0, 4)
    (boxes, _), _ = _regions(_small_head(max_boxes_per_image=4).train(), instances)
    assert torch.equal(boxes, truth[order[:4]])
    (boxes, _), _ = _regions(_small_head(train_on_gt_boxes=False).train(), instances)
    assert torch.equal(boxes, before)
    assert torch.equal(instances[0].proposal_boxes.tensor, before)  # other heads go on with it


def test_ground_truth_boxes_are_enlarged_by_context_and_filtered_by_class():
    head = _small_head(context=1.5, train_classes=[0, 2]).train()
    (boxes, _), classes = _regions(head, _instances())
    assert classes.tolist() == [0, 2, 0]
    assert boxes[0].tolist() == [2.5, 0, 35.5, 48]


def test_masks_do_not_depend_on_the_class_whatever_the_config_says():
    cfg = head_cfg(NAME)
    assert not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 16
    cfg.MRCNN_EXT.MASK_HEAD.SCORE = "mask_iou"
    cfg.MRCNN_EXT.MASK_HEAD.SCORE_FC_DIM = 8
    model = build_model(cfg)
    head = model.roi_heads.mask_head
    assert head.predictor.out_channels == head.iou_predictor.predictor.out_features == 1
    train_step(model, random_inputs(cfg))
    with torch.no_grad():
        result = model.eval().inference(random_inputs(cfg), do_postprocess=False)[0]
    assert result.pred_masks.shape[1:] == (1, 32, 32)


def test_words_for_wrong_arguments():
    with pytest.raises(ConfigError, match=r"DEEP.DEPTH is 11, expected one of \[10, 20, 52\]"):
        _small_head(depth=11)
    with pytest.raises(ConfigError, match=r"MAX_BOXES_PER_IMAGE is -1"):
        _small_head(max_boxes_per_image=-1)
