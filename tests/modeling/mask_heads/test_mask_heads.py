# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The parts that mask heads share: losses, scores, regions; and Mask R-CNN's own head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.mask_heads import MASK_LOSSES, MaskLoss, MrcnnExtFCNMaskHead
from mrcnn_ext.modeling.mask_heads.losses import boundary_band, laplacian
from mrcnn_ext.modeling.mask_heads.regions import crop_context, enlarge_boxes
from mrcnn_ext.modeling.mask_heads.scoring import free_mask_quality, mask_iou_target
from tests.modeling.mask_heads.harness import head_cfg

# ---- Losses ----------------------------------------------------------------------------------------


def _jaccard_loss(truth: np.ndarray, predicted: np.ndarray) -> float:
    union = (truth | predicted).sum()
    return 1 - (truth & predicted).sum() / union if union else 0.0


def _lovasz_by_definition(logits: np.ndarray, truth: np.ndarray) -> float:
    """Sum over sorted errors of (error - next error) * Jaccard loss of the pixels so far wrong."""
    errors = np.maximum(1 - logits * (2.0 * truth - 1), 0)
    order = np.argsort(-errors)
    total = 0.0
    for k in range(len(order)):
        wrong = np.zeros(len(order), bool)
        wrong[order[: k + 1]] = True
        following = errors[order[k + 1]] if k + 1 < len(order) else 0.0
        total += (errors[order[k]] - following) * _jaccard_loss(truth, truth ^ wrong)
    return total


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from([0.0, 0.3, 1.0]))
def test_lovasz_is_the_extension_of_the_jaccard_loss(seed, rois, density):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rois, 3, 4))
    truth = rng.random((rois, 3, 4)) < density
    expected = np.mean([_lovasz_by_definition(a.ravel(), b.ravel()) for a, b in zip(logits, truth)])
    got = MASK_LOSSES["lovasz"](torch.from_numpy(logits), torch.from_numpy(truth).double())
    assert float(got) == pytest.approx(expected, abs=1e-9)


def test_dice_and_boundary_bce_against_plain_loops():
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(2, 5, 5)), rng.random((2, 5, 5)) < 0.4
    p = 1 / (1 + np.exp(-logits))
    dice = [1 - (2 * (a * b).sum() + 1) / ((a * a).sum() + b.sum() + 1) for a, b in zip(p, truth)]
    targets = torch.from_numpy(truth).double()
    assert float(MASK_LOSSES["dice"](torch.from_numpy(logits), targets)) == pytest.approx(
        np.mean(dice)
    )

    weights = np.ones_like(logits)
    for r, y, x in np.ndindex(truth.shape):
        near = truth[r, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        weights[r, y, x] += 4 * (near.any() and not near.all())
    bce = -np.where(truth, np.log(p), np.log(1 - p))
    expected = (weights * bce).sum() / weights.sum()
    got = MASK_LOSSES["boundary_bce"](torch.from_numpy(logits), targets)
    assert float(got) == pytest.approx(expected)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_a_perfect_mask_has_the_least_loss_and_gradients_point_to_it(name):
    truth = torch.zeros(1, 8, 8, dtype=torch.bool)
    truth[:, 2:6, 3:7] = True
    perfect = (truth.double() * 2 - 1) * 20
    loss = MASK_LOSSES[name]
    assert float(loss(perfect, truth.double())) < 1e-3
    shifted = perfect.roll(1, dims=2).requires_grad_()
    value = loss(shifted, truth.double())
    assert float(value.detach()) > 0.05
    torch.manual_seed(0)
    start = torch.randn(1, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(start, truth.double()), start)
    after = loss(start - 0.1 * gradient / gradient.norm(), truth.double())
    assert float(after) < float(loss(start, truth.double()))


def test_loss_names_weights_and_empty_batches():
    with pytest.raises(ConfigError, match=r"^losses is \['nonsense'\]; expected .* bce, dice"):
        MaskLoss(["nonsense"])
    with pytest.raises(ConfigError, match="2 weights"):
        MaskLoss(["bce"], [1, 2])
    logits, truth = torch.randn(3, 4, 4), torch.rand(3, 4, 4) < 0.5
    terms = {name: MASK_LOSSES[name](logits, truth.float()) for name in ("bce", "dice")}
    assert torch.isclose(
        MaskLoss(["bce", "dice"], [2, 3])(logits, truth), 2 * terms["bce"] + 3 * terms["dice"]
    )
    empty = torch.zeros(0, 4, 4, requires_grad=True)
    MaskLoss(list(MASK_LOSSES), [1] * len(MASK_LOSSES))(empty, empty > 0).backward()


def test_boundary_band_has_no_boundary_at_the_border():
    mask = torch.zeros(1, 6, 6)
    mask[:, :, :3] = 1
    assert boundary_band(mask, 1)[0, 0].tolist() == [0, 0, 1, 1, 0, 0]
    assert boundary_band(torch.ones(1, 4, 4), 2).sum() == 0


@pytest.mark.parametrize("border", ["constant", "replicate"])
def test_laplacian_against_plain_loops(border):
    masks = np.random.default_rng(0).random((2, 5, 6))
    mode = "constant" if border == "constant" else "edge"
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)), mode=mode)
    expected = np.zeros_like(masks)
    for r, y, x in np.ndindex(masks.shape):
        expected[r, y, x] = 9 * masks[r, y, x] - padded[r, y : y + 3, x : x + 3].sum()
    np.testing.assert_allclose(laplacian(torch.from_numpy(masks), border), expected, atol=1e-12)


def test_losses_are_computed_in_float32_under_autocast():
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 9, 9), torch.rand(2, 9, 9) < 0.5
    for name in MASK_LOSSES:
        loss = MaskLoss([name], [1.0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = loss(logits, truth)
        assert torch.equal(got, loss(logits, truth)), name


# ---- Scores ----------------------------------------------------------------------------------------


def test_free_scores_by_hand():
    masks = torch.tensor([[[[0.9, 0.7], [0.1, 0.3]]], [[[0.1, 0.2], [0.3, 0.4]]]])
    assert torch.allclose(free_mask_quality("mean_foreground", masks), torch.tensor([0.8, 0.0]))
    assert torch.allclose(free_mask_quality("certainty", masks), torch.tensor([0.6, 0.5]))


@pytest.mark.parametrize("polygons", [False, True])
def test_mask_iou_target_counts_what_lies_outside_of_the_box(polygons):
    # An object of 20 x 10 pixels, of which the box holds the left half; the mask fills the box.
    if polygons:
        masks = PolygonMasks([[np.array([10, 10, 30, 10, 30, 20, 10, 20.0])]])
    else:
        masks = BitMasks(torch.zeros(1, 40, 40, dtype=torch.bool))
        masks.tensor[0, 10:20, 10:30] = True
    instances = [Instances((40, 40), gt_masks=masks)]
    boxes = torch.tensor([[10.0, 10, 20, 20]])
    full = torch.ones(1, 1, 8, 8)
    target = mask_iou_target(full, torch.ones(1, 8, 8, dtype=torch.bool), boxes, instances)
    assert target.tolist() == pytest.approx([0.5], abs=1e-5)
    assert mask_iou_target(0 * full, full[0] > 0, boxes, instances).tolist() == [0]


# ---- Regions ---------------------------------------------------------------------------------------


def test_context_is_cut_back_to_the_box():
    boxes = enlarge_boxes([Boxes(torch.tensor([[10.0, 20, 30, 60]]))], 1.5)[0].tensor
    assert boxes.tolist() == [[5, 10, 35, 70]]
    # A mask that is a ramp over the enlarged box: after cutting, a ramp over the box.
    side = 24
    centres = (torch.arange(side) + 0.5) / side * 30 + 5  # x of pixel centres
    ramp = centres.expand(1, 1, side, side)
    expected = (torch.arange(side) + 0.5) / side * 20 + 10
    assert torch.allclose(crop_context(ramp, 1.5)[0, 0, 3], expected, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cut = crop_context(ramp, 1.5)
    assert torch.allclose(cut[0, 0, 3], expected, atol=1e-4)


# ---- The heads -------------------------------------------------------------------------------------


def test_fcn_head_is_detectron2s_head():
    torch.manual_seed(0)
    kwargs = {"num_classes": 5, "conv_dims": [8, 8], "conv_norm": ""}
    theirs = MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), **kwargs)
    ours = MrcnnExtFCNMaskHead(input_shape=ShapeSpec(channels=6), **kwargs)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 6, 14, 14)
    masks = torch.rand(3, 64, 64) < 0.5
    instances = Instances((64, 64), gt_masks=BitMasks(masks), gt_classes=torch.tensor([0, 4, 2]))
    instances.proposal_boxes = Boxes(
        torch.tensor([[0, 0, 40, 50], [5, 5, 60, 60], [9, 9, 12, 30.0]])
    )
    with EventStorage():
        expected, got = theirs(x, [instances]), ours(x, [instances])
    assert expected.keys() == got.keys()
    assert torch.allclose(expected["loss_mask"], got["loss_mask"])
    found = [Instances((64, 64), pred_classes=torch.tensor([1, 3, 0])) for _ in range(2)]
    for x_ in found:
        x_.pred_boxes = instances.proposal_boxes
    theirs.eval()(x, found[:1])
    ours.eval()(x, found[1:])
    assert torch.equal(found[0].pred_masks, found[1].pred_masks)


def test_softmax_couples_classes():
    torch.manual_seed(0)
    head = MrcnnExtFCNMaskHead(
        input_shape=ShapeSpec(channels=6), num_classes=3, conv_dims=[4], coupling="softmax"
    ).eval()
    x, boxes = torch.randn(2, 6, 7, 7), Boxes(torch.tensor([[0, 0, 9, 9.0]] * 2))
    total = 0
    for c in range(3):
        found = Instances((9, 9), pred_boxes=boxes, pred_classes=torch.tensor([c, c]))
        total = total + head(x, [found])[0].pred_masks
    assert ((total > 0) & (total < 1)).all()  # the rest is background
    for bad in ({"num_classes": 1}, {"losses": ["dice"]}, {"coupling": "tanh"}):
        arguments = {"num_classes": 3, "conv_dims": [4], "coupling": "softmax", **bad}
        with pytest.raises(ConfigError, match="COUPLING"):
            MrcnnExtFCNMaskHead(input_shape=ShapeSpec(channels=6), **arguments)


def test_contradictions_are_named():
    cfg = head_cfg("MrcnnExtFCNMaskHead", "StandardROIHeads")
    cfg.MRCNN_EXT.MASK_HEAD.CONTEXT = 1.5
    with pytest.raises(ConfigError, match="POOLER_TYPE"):
        build_model(cfg)
    cfg.MRCNN_EXT.MASK_HEAD.CONTEXT = 1.0
    cfg.MRCNN_EXT.MASK_HEAD.POOLER_LEVELS = ["p2"]
    with pytest.raises(ConfigError, match="POOLER_LEVELS"):
        build_model(cfg)
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
    cfg.MRCNN_EXT.MASK_HEAD.POOLER_LEVELS = ["p9"]
    with pytest.raises(ConfigError, match=r"p9.*IN_FEATURES"):
        build_model(cfg)
    cfg.MRCNN_EXT.MASK_HEAD.POOLER_LEVELS = []
    cfg.MRCNN_EXT.MASK_HEAD.SCORE = "luck"
    with pytest.raises(ConfigError, match=r"luck.*mask_iou"):
        build_model(cfg)
