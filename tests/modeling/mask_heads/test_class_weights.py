# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Losses of masks weighted by class: values in float64, every head, heads that cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.class_weights import ClassWeights
from mrcnn_ext.modeling.mask_heads import MASK_LOSSES, MaskLoss
from mrcnn_ext.modeling.mask_heads.losses import boundary_band
from mrcnn_ext.modeling.mask_heads.refine_mask_head import band_loss
from tests.helpers import random_inputs, train_step
from tests.modeling.mask_heads.harness import HEADS, ground_truth, head_and_maps, head_cfg

WEIGHTS = np.array([0.3, 2.0, 0.0, 1.5])


def _masks():
    random = np.random.default_rng(2)
    logits = 3 * random.standard_normal((4, 9, 9))
    targets = np.zeros((4, 9, 9))
    for i, (a, b) in enumerate(((1, 5), (2, 8), (0, 3), (4, 9))):
        targets[i, a:b, a // 2 : b] = 1
    return logits, targets


def _bce(logits, targets):
    return np.logaddexp(0, logits) - targets * logits


def _by_hand(name, logits, targets):
    """Losses of masks in float64, and what their weighted sum is divided by."""
    p, pixels = 1 / (1 + np.exp(-logits)), (1, 2)
    if name == "bce":
        return _bce(logits, targets).mean(pixels), len(logits)
    if name == "boundary_bce":
        counted = 1 + 4 * boundary_band(torch.from_numpy(targets), 1).numpy()
        return (counted * _bce(logits, targets)).sum(pixels), counted.sum()
    if name == "dice":
        overlap, sizes = (p * targets).sum(pixels), (p**2 + targets**2).sum(pixels)
        return 1 - (2 * overlap + 1) / (sizes + 1), len(logits)
    alone = [MASK_LOSSES[name](*pair) for pair in zip(*(torch.from_numpy(x)[:, None] for x in
             (logits, targets)))]  # fmt: skip
    return np.array([float(value) for value in alone]), len(logits)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_each_mask_counts_by_its_weight(name):
    logits, targets = _masks()
    per_mask, divisor = _by_hand(name, logits, targets)
    loss = MaskLoss([name], [0.5])
    tensor = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    truth = torch.from_numpy(targets) > 0
    value = loss(tensor, truth, torch.tensor(WEIGHTS, dtype=torch.float32))
    assert value.item() == pytest.approx(0.5 * (WEIGHTS * per_mask).sum() / divisor, rel=1e-5)
    value.backward()
    assert (tensor.grad[2] == 0).all()
    assert all((tensor.grad[i] != 0).any() for i in (0, 1, 3))
    # Weights of 1 are none; without them, the loss is the same to the bit as before.
    plain = loss(tensor, truth)
    assert plain.item() == pytest.approx(0.5 * per_mask.sum() / divisor, rel=1e-5)
    torch.testing.assert_close(loss(tensor, truth, torch.ones(4)), plain)


def test_band_loss_by_hand():
    logits, targets = _masks()
    band = np.zeros((4, 9, 9))
    band[:, 2:5], band[1] = 1, 0
    expected = (WEIGHTS[:, None, None] * band * _bce(logits, targets)).sum() / band.sum()
    tensors = [torch.from_numpy(x) for x in (logits, targets > 0, band > 0, WEIGHTS)]
    assert float(band_loss(*tensors)) == pytest.approx(expected, rel=1e-12)


def test_no_value_is_read_on_the_host():
    """Tensors without values would raise where one is asked for, as a GPU would be waited for."""
    weights = ClassWeights(num_classes=3, factors=[1.0, 2.0, 3.0]).to("meta")
    found = weights(torch.zeros(5, dtype=torch.int64, device="meta"))
    masks = torch.zeros(5, 8, 8, device="meta")
    for loss in MASK_LOSSES.values():
        loss(masks, masks, found)
    band_loss(masks, masks > 0, masks > 0, found)


# ---- Heads -------------------------------------------------------------------------------------

WEIGHTED = [name for name in HEADS if name != "MrcnnExtWrappedMaskHead"]
each_head = pytest.mark.parametrize("name", WEIGHTED)
MASK_IOU = ("MRCNN_EXT.MASK_HEAD.SCORE", "mask_iou")


def _losses(head, maps, weights=None, instances=None) -> dict[str, torch.Tensor]:
    """Losses with (8,) weights by class."""
    head.class_weights = None
    if weights is not None:
        head.class_weights = ClassWeights(num_classes=8, factors=weights)
    torch.manual_seed(0)  # of the points of PointRend
    with EventStorage():
        return head.train()(maps, ground_truth() if instances is None else instances)


@each_head
def test_every_loss_of_every_head_is_weighted(name):
    head, maps = head_and_maps(name, *MASK_IOU)
    plain = _losses(head, maps)
    # The objects are of classes 0, 1 and, in the second image, 0.
    first, second = ([float(i == k) for i in range(8)] for k in (0, 1))
    parts = [_losses(head, maps, weights) for weights in (first, second)]
    mixed = _losses(head, maps, [0.25, 3.0, *[9.0] * 6])
    assert mixed.keys() == plain.keys()
    for key, value in plain.items():
        if key == "loss_mask_iou":  # says how good a mask is, whatever its class
            assert torch.equal(mixed[key], value)
            continue
        assert min(part[key].item() for part in parts) > 0, key
        torch.testing.assert_close(parts[0][key] + parts[1][key], value, msg=key)
        torch.testing.assert_close(mixed[key], 0.25 * parts[0][key] + 3 * parts[1][key], msg=key)


@each_head
def test_objects_without_masks_stay_out(name):
    head, maps = head_and_maps(name)
    weights = [0.25, 3.0, *[1.0] * 6]
    instances = ground_truth()
    for x, flags in zip(instances, ([True, False], [True])):
        x.gt_has_mask = torch.tensor(flags)
    losses = _losses(head, maps, weights, instances)
    alone = [x[x.gt_has_mask] for x in ground_truth_with(instances)]
    for key, value in _losses(head, maps, weights, alone).items():
        torch.testing.assert_close(losses[key], value, msg=key)


def ground_truth_with(instances):
    result = ground_truth()
    for x, flagged in zip(result, instances):
        x.gt_has_mask = flagged.gt_has_mask
    return result


def test_coupled_softmax_is_weighted_too():
    head, maps = head_and_maps("MrcnnExtFCNMaskHead", "MRCNN_EXT.MASK_HEAD.COUPLING", "softmax",
                               "MRCNN_EXT.MASK_HEAD.IN_FEATURES", ["p2"])  # fmt: skip
    first, second = (
        _losses(head, maps, [float(i == k) for i in range(8)])["loss_mask"] for k in (0, 1)
    )
    plain = _losses(head, maps)["loss_mask"]
    torch.testing.assert_close(first + second, plain)
    mixed = _losses(head, maps, [0.5, 2.0, *[1.0] * 6])["loss_mask"]
    torch.testing.assert_close(mixed, 0.5 * first + 2 * second)


# ---- By config ---------------------------------------------------------------------------------


KEY = "MRCNN_EXT.MASK_HEAD.CLASS_WEIGHTS"


@each_head
def test_every_head_reads_the_key(name):
    head, _ = head_and_maps(name, KEY, [["star", 4.0], ["figure", 0.0]])
    assert not [key for key in head.state_dict() if "class_weights" in key]
    expected = [1.0, 4.0, *[1.0] * 5, 0.0, 1.0]  # the last is background
    assert head.class_weights(torch.arange(9)).tolist() == expected
    assert head_and_maps(name)[0].class_weights is None


def test_a_model_weighs_the_losses_of_masks_alone():
    losses = []
    for entries in ([], [["ring", 4.0], ["figure", 0.0]]):  # classes 0 and 7, which the inputs have
        cfg = head_cfg("MrcnnExtFCNMaskHead")
        cfg.MRCNN_EXT.MASK_HEAD.CLASS_WEIGHTS = entries
        torch.manual_seed(0)
        model = build_model(cfg)
        torch.manual_seed(1)
        losses.append(train_step(model, random_inputs(cfg)))
    plain, weighted = losses
    assert plain.keys() == weighted.keys()
    for key, value in plain.items():
        assert torch.equal(weighted[key], value) is (key != "loss_mask"), key


def test_a_wrapped_head_must_be_one_that_follows():
    with pytest.raises(ConfigError, match=r"CLASS_WEIGHTS .*MaskRCNNConvUpsampleHead, has losses"):
        head_and_maps("MrcnnExtWrappedMaskHead", KEY, [["ring", 4.0]])
    losses = []
    for entries in ([], [["ring", 4.0]]):
        wrapped = ("MRCNN_EXT.MASK_HEAD.WRAPPED", "MrcnnExtFCNMaskHead", KEY, entries)
        head, maps = head_and_maps("MrcnnExtWrappedMaskHead", *wrapped)
        with EventStorage():
            losses.append(head.train()(maps, ground_truth())["loss_mask"].item())
    assert losses[1] > 1.5 * losses[0]  # two of three objects count four times


def test_a_stock_head_is_refused():
    cfg = head_cfg("MaskRCNNConvUpsampleHead")
    cfg.MRCNN_EXT.MASK_HEAD.CLASS_WEIGHTS = ["inverse_sqrt"]
    with pytest.raises(ConfigError, match=r"MASK_HEAD\.CLASS_WEIGHTS is .*UpsampleHead does not"):
        build_model(cfg)
    cfg.MODEL.MASK_ON = False
    build_model(cfg)
