# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""RefineMask: bands, merge, losses and layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, Instances
from torch.nn import functional as F

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.mask_heads import MaskHeadInputs, MrcnnExtRefineMaskHead
from mrcnn_ext.modeling.mask_heads.refine_mask_head import band_loss, merge_stages, refined_band
from tests.modeling.mask_heads.harness import lazy_head, lazy_pooler

MAPS = {"p2": ShapeSpec(channels=6, stride=4), "p3": ShapeSpec(channels=6, stride=8)}


def _head(**changes) -> MrcnnExtRefineMaskHead:
    arguments = {
        "input_shape": MAPS,
        "pooler": lazy_pooler(14, 4, 8),
        "in_features": ["p2", "p3"],
        "conv_dims": [48, 40],
        "semantic_num_conv": 1,
    }
    return lazy_head(MrcnnExtRefineMaskHead, **{**arguments, **changes})


def _maps_and_boxes():
    generator = torch.Generator().manual_seed(0)
    maps = {
        name: torch.randn(
            2, shape.channels, 96 // shape.stride, 96 // shape.stride, generator=generator
        )
        for name, shape in MAPS.items()
    }
    return maps, [
        Boxes(torch.tensor([[10.0, 12, 60, 50], [30, 20, 90, 80]])),
        Boxes(torch.tensor([[5.0, 40, 45, 92]])),
    ]


def _truth(boxes: list[Boxes]) -> list[Instances]:
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    disc = (x - 48) ** 2 + (y - 48) ** 2 < 30**2
    result = []
    for item in boxes:
        instances = Instances((96, 96), proposal_boxes=item)
        instances.gt_classes = torch.arange(len(item))
        instances.gt_masks = BitMasks(disc.repeat(len(item), 1, 1))
        result.append(instances)
    return result


# ---- Bands, losses, merge --------------------------------------------------------------------------


def _band_by_loops(mask: np.ndarray, radius: int) -> np.ndarray:
    """Pixels with one of the other value at most ``radius`` rows and columns away."""
    band = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape):
        near = mask[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        band[y, x] = near.any() and not near.all()
    return band


def _double_by_loops(mask: np.ndarray) -> np.ndarray:
    """Bilinear: half a pixel between two centres, so that 3/4 are of the nearer one."""
    side = len(mask)
    result = np.zeros((2 * side, 2 * side))
    for y, x in np.ndindex(result.shape):
        for dy, wy in ((0, 0.75), (1 if y % 2 else -1, 0.25)):
            for dx, wx in ((0, 0.75), (1 if x % 2 else -1, 0.25)):
                row, column = min(max(y // 2 + dy, 0), side - 1), min(max(x // 2 + dx, 0), side - 1)
                result[y, x] += wy * wx * mask[row, column]
    return result


def _smooth(rng, side: int, rois: int = 2) -> torch.Tensor:
    rough = torch.from_numpy(rng.uniform(-0.2, 1.2, (rois, 1, 5, 5)))
    return F.interpolate(rough, side, mode="bilinear", align_corners=False)[:, 0].clamp(0, 1)


@pytest.mark.parametrize("radius", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_band_is_that_of_any_mask_and_twice_as_large(radius):
    rng = np.random.default_rng(0)
    first, second = _smooth(rng, 12) >= 0.5, _smooth(rng, 12) >= 0.5
    got = refined_band([first, second], radius).numpy()
    assert got.shape == (2, 24, 24)
    for r, y, x in np.ndindex(got.shape):
        bands = [_band_by_loops(m[r].numpy(), radius)[y // 2, x // 2] for m in (first, second)]
        assert got[r, y, x] == any(bands)


def test_merge_against_plain_loops():
    rng = np.random.default_rng(1)
    masks = [_smooth(rng, side) for side in (6, 12, 24, 48)]
    got = merge_stages(masks)
    assert got.shape == (2, 48, 48)
    for r in range(2):
        merged = masks[1][r].numpy()
        for mask in masks[2:]:
            band = _band_by_loops(merged >= 0.5, 1)
            band = band.repeat(2, axis=0).repeat(2, axis=1)
            merged = np.where(band, mask[r].numpy(), _double_by_loops(merged))
        np.testing.assert_allclose(got[r].numpy(), merged, atol=1e-12)
    # The first mask is of no account, and the others only where they may be.
    assert torch.equal(merge_stages([1 - masks[0], *masks[1:]]), got)
    flat = merge_stages([masks[0], torch.ones(2, 12, 12), masks[2] * 0, masks[3] * 0])
    assert (flat == 1).all()


def test_exact_stages_merge_to_the_exact_mask():
    centres = [(torch.arange(s, dtype=torch.float64) + 0.5) / s - 0.5 for s in (14, 28, 56, 112)]
    masks = [((c[:, None] ** 2 + c[None] ** 2).sqrt() <= 0.37).double()[None] for c in centres]
    assert torch.equal(merge_stages(masks) >= 0.5, masks[-1] >= 0.5)


def test_band_loss_is_a_mean_over_the_band():
    rng = np.random.default_rng(2)
    logits, truth, band = (
        rng.normal(size=(2, 5, 5)),
        rng.random((2, 5, 5)) < 0.5,
        rng.random((2, 5, 5)) < 0.3,
    )
    p = 1 / (1 + np.exp(-logits))
    expected = -np.where(truth, np.log(p), np.log(1 - p))[band].mean()
    tensors = [torch.from_numpy(x) for x in (logits, truth, band)]
    assert float(band_loss(*tensors)) == pytest.approx(expected)
    assert float(band_loss(*tensors[:2], tensors[2] & False)) == 0


def test_losses_of_all_stages():
    torch.manual_seed(0)
    head = _head(losses=["bce", "dice"], loss_weights=[1, 2], stage_weights=[2, 3, 5, 7])
    maps, boxes = _maps_and_boxes()
    instances = _truth(boxes)
    inputs = MaskHeadInputs(
        torch.zeros(1), maps, boxes, torch.cat([x.gt_classes for x in instances])
    )
    rng = np.random.default_rng(3)
    stages = [_smooth(rng, side, 3)[:, None] * 4 - 2 for side in (14, 28, 56, 112)]
    got = head.losses([s.float() for s in stages], inputs, instances)
    targets = [
        torch.cat([x.gt_masks.crop_and_resize(b.tensor, s.shape[-1]) for x, b in zip(instances, boxes)])
        for s in stages
    ]  # fmt: skip
    dense = [head.mask_loss(s[:, 0], t) for s, t in zip(stages[:2], targets[:2])]
    assert float(got["loss_mask"]) == pytest.approx(float(2 * dense[0] + 3 * dense[1]))
    expected = 0.0
    for weight, i in ((5, 2), (7, 3)):
        band = np.stack(
            [
                _band_by_loops(a, 2) | _band_by_loops(b, 2)
                for a, b in zip((stages[i - 1][:, 0] >= 0).numpy(), targets[i - 1].numpy())
            ]
        )
        band = torch.from_numpy(band.repeat(2, axis=1).repeat(2, axis=2))
        losses = F.binary_cross_entropy_with_logits(
            stages[i][:, 0], targets[i].double(), reduction="none"
        )
        expected += weight * float(losses[band].mean())
    assert float(got["loss_mask_boundary"]) == pytest.approx(expected, rel=1e-5)


# ---- Layers ----------------------------------------------------------------------------------------


def test_stages_by_hand():
    """The layers once more, in plain functions and with Detectron2's pooler."""
    torch.manual_seed(0)
    head = _head(stage_weights=[1, 1, 1], semantic_feature="p3").eval()
    maps, boxes = _maps_and_boxes()
    classes = torch.tensor([2, 0, 1])
    pooled = torch.randn(3, 6, 14, 14)
    with torch.no_grad():
        got = head.predict(MaskHeadInputs(pooled, maps, boxes, classes))
        x, semantic = pooled, maps["p3"]
        for conv in head.instance_convs[::2]:
            x = F.conv2d(x, conv.weight, conv.bias, padding=1).relu()
        for conv in head.semantic_convs[::2]:
            semantic = F.conv2d(semantic, conv.weight, conv.bias, padding=1).relu()
        for i, (stage, side) in enumerate(zip(head.stages, (14, 28))):
            logits = F.conv2d(x, stage.predictor.weight, stage.predictor.bias)
            torch.testing.assert_close(got[i], logits)
            mask = torch.stack([logits[r, c] for r, c in enumerate(classes)])[:, None].sigmoid()
            detail = F.conv2d(semantic, stage.semantic.weight, stage.semantic.bias).relu()
            detail = ROIPooler(side, (1 / 8,), 1, "ROIAlignV2")([detail], boxes)
            x = torch.cat([x, detail, mask], 1)
            x = F.conv2d(x, stage.join.weight, stage.join.bias).relu()
            x = sum(
                F.conv2d(x, conv.weight, conv.bias, padding=d, dilation=d).relu()
                for conv, d in zip(stage.around, (1, 3, 5))
            )
            x = F.conv2d(x, stage.fuse.weight, stage.fuse.bias).relu()
            x = F.conv2d(x, stage.reduce.weight, stage.reduce.bias).relu()
            x = torch.cat([x, mask], 1)
            assert x.shape[1] == (20, 16)[i]
            if i == 0:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        last = F.conv2d(x, head.predictor.weight, head.predictor.bias)
        assert len(got) == 3
        torch.testing.assert_close(got[2], F.interpolate(last, scale_factor=2.0, mode="bilinear"))


def test_it_trains_and_predicts_with_plain_arguments():
    maps, boxes = _maps_and_boxes()
    for changes in ({}, {"num_classes": 1}, {"conv_norm": "GN"}, {"semantic_num_conv": 0}):
        torch.manual_seed(0)
        head = _head(**changes)
        losses = head(maps, _truth(boxes))
        assert set(losses) == {"loss_mask", "loss_mask_boundary"}
        sum(losses.values()).backward()
        without = [name for name, p in head.named_parameters() if not p.grad.abs().sum() > 0]
        assert not without
        found = [
            Instances((96, 96), pred_boxes=item, pred_classes=torch.zeros(len(item)))
            for item in boxes
        ]
        head.eval()(maps, found)
        assert [x.pred_masks.shape for x in found] == [(2, 1, 112, 112), (1, 1, 112, 112)]


def test_without_objects_the_branch_does_not_run(monkeypatch):
    head = _head()
    monkeypatch.setattr(head.semantic_convs, "forward", None)
    maps, boxes = _maps_and_boxes()
    found = [
        Instances((96, 96), pred_boxes=item[:0], pred_classes=torch.zeros(0)) for item in boxes
    ]
    head.eval()(maps, found)
    assert found[0].pred_masks.shape == (0, 1, 112, 112)
    losses = head.train()(maps, [x[:0] for x in _truth(boxes)])
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage_weights": [1, 1]}, r"STAGE_WEIGHTS is \[1, 1\]"),
        ({"conv_dims": []}, "NUM_CONV is 0"),
        ({"semantic_feature": "p9"}, r"IN_FEATURES names \['p9'\]"),
        ({"pooler": None, "input_shape": ShapeSpec(channels=6)}, "POOLER_TYPE"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        _head(**changes)
