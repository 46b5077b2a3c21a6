# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The RoI heads against Detectron2's own, in yaml and LazyConfig; exports; keypoints with C4."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    build_model,
)
from detectron2.modeling.backbone import BottleneckBlock, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    KRCNNConvDeconvUpsampleHead,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.keypoint_head import keypoint_rcnn_loss
from detectron2.modeling.roi_heads.roi_heads import select_proposals_with_visible_keypoints
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling import FusedROIPooler, swap_poolers
from mrcnn_ext.modeling.roi_heads import (
    MrcnnExtCascadeROIHeads,
    MrcnnExtRes5ROIHeads,
    MrcnnExtStandardROIHeads,
    res5_heads,
)
from tests.helpers import random_inputs, timm_cfg, train_step

NUM_KEYPOINTS = 11  # of the synthetic set
# float32, through a head or two: seen are 4e-7 in scores, 2e-5 pixels in boxes and, through GroupNorm
# and C4's keypoint head, 2e-4 in logits of order 1.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}
CLOSE_BOXES = {"rtol": 0, "atol": 1e-3}


def _normalized(cfg):
    """Untrained networks need GroupNorm for features, and then scores, of a sensible size."""
    cfg.MRCNN_EXT.TIMM.NORM = cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "GN"
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    return cfg


def _standard_cfg():
    return _normalized(timm_cfg("resnet18", fpn=True))


def _cascade_cfg():
    cfg = _standard_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    return cfg


def _c4_cfg():
    cfg = _normalized(timm_cfg("resnet18", fpn=False))
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    return cfg


CFGS = {"Standard": _standard_cfg, "Cascade": _cascade_cfg, "Res5": _c4_cfg}


def _with_keypoints(cfg):
    cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = NUM_KEYPOINTS
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (16,)
    return cfg


def _inputs(cfg, **kwargs):
    """Images of which each object has keypoints: a visible one in its middle, the others not."""
    batch = random_inputs(cfg, **kwargs)
    if cfg.MODEL.KEYPOINT_ON:
        for item in batch:
            boxes = item["instances"].gt_boxes
            points = torch.zeros(len(boxes), NUM_KEYPOINTS, 3)
            points[:, 3, :2] = boxes.get_centers()
            points[:, 3, 2] = 2
            item["instances"].gt_keypoints = Keypoints(points)
    return batch


def _spread(model):
    """Make class scores and boxes of an untrained model differ from each other."""
    generator = torch.Generator().manual_seed(5)
    for name, value in model.named_parameters():
        if name.endswith(("cls_score.weight", "bbox_pred.weight")):
            std = (4.0 if "cls" in name else 1.0) / value.shape[1] ** 0.5
            value.data = std * torch.randn(value.shape, generator=generator)
        if name.endswith("predictor.weight"):
            value.data = torch.randn(value.shape, generator=generator) * 0.1
    return model


def _build(cfg, name=None):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NAME = name or cfg.MODEL.ROI_HEADS.NAME
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    return _spread(build_model(cfg))


def _poolers(model):
    return [module for module in model.modules() if isinstance(module, ROIPooler)]


def _predict(model, cfg, **kwargs):
    with torch.no_grad():
        return model.eval()(random_inputs(cfg, number=1, **kwargs))[0]["instances"]


def _assert_same_predictions(ours, stock):
    assert len(ours) == len(stock) > 5
    assert torch.equal(ours.pred_classes, stock.pred_classes)
    torch.testing.assert_close(ours.scores, stock.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.pred_boxes.tensor, stock.pred_boxes.tensor, **CLOSE_BOXES)
    differing = (ours.pred_masks != stock.pred_masks).float().mean()
    assert differing < 1e-3  # masks at 0.5 after rounding
    assert stock.pred_masks.any()


def _assert_same_step(ours, stock, batch):
    losses = []
    for model in (ours, stock):
        torch.manual_seed(0)  # of the samplers
        losses.append(train_step(model, copy.deepcopy(batch)))
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][key], rtol=1e-5, atol=1e-6, msg=key)
    gradients = dict(stock.named_parameters())
    for key, value in ours.named_parameters():
        if value.grad is None:
            assert gradients[key].grad is None
            continue
        # Seen: 2e-6 of the largest; 1.6e-3 where a ReLU of res5, at its kink, fell the other way.
        atol = 1e-2 * gradients[key].grad.abs().max().item() + 1e-6
        torch.testing.assert_close(value.grad, gradients[key].grad, rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize(
    ("kind", "keypoints"),
    [(kind, on) for kind in CFGS for on in (False, True) if (kind, on) != ("Res5", True)],
)
def test_yaml_heads_are_detectron2s_with_another_pooler(kind, keypoints):
    cfg = CFGS[kind]()
    if keypoints:
        _with_keypoints(cfg)
    ours, stock = _build(cfg, f"MrcnnExt{kind}ROIHeads"), _build(cfg, f"{kind}ROIHeads")
    assert {type(pooler) for pooler in _poolers(ours)} == {FusedROIPooler}
    assert {type(pooler) for pooler in _poolers(stock)} == {ROIPooler}
    assert len(_poolers(ours)) == len(_poolers(stock))
    ours.load_state_dict(stock.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(stock.state_dict())

    results = [_predict(model, cfg) for model in (ours, stock)]
    _assert_same_predictions(*results)
    if keypoints:
        torch.testing.assert_close(
            results[0].pred_keypoint_heatmaps, results[1].pred_keypoint_heatmaps, **CLOSE
        )
    _assert_same_step(ours, stock, _inputs(cfg))


@pytest.mark.parametrize("kind", CFGS)
def test_swap_poolers_on_a_built_model(kind):
    cfg = CFGS[kind]()
    stock = _build(cfg)
    swapped = copy.deepcopy(stock)
    assert swap_poolers(swapped) == len(_poolers(stock)) == (1 if kind == "Res5" else 2)
    assert swap_poolers(swapped) == 0
    assert {type(pooler) for pooler in _poolers(swapped)} == {FusedROIPooler}
    assert swapped.state_dict().keys() == stock.state_dict().keys()
    _assert_same_predictions(_predict(swapped, cfg), _predict(stock, cfg))
    _assert_same_step(swapped, stock, _inputs(cfg))


@pytest.mark.parametrize("kind", CFGS)
def test_roipool_stays_selectable(kind):
    cfg = CFGS[kind]()
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIPool"
    ours, stock = _build(cfg, f"MrcnnExt{kind}ROIHeads"), _build(cfg)
    assert type(_poolers(ours.roi_heads)[0].level_poolers[0]).__name__ == "RoIPool"
    ours, stock = _predict(ours, cfg), _predict(stock, cfg)
    assert torch.equal(ours.pred_boxes.tensor, stock.pred_boxes.tensor)
    assert torch.equal(ours.scores, stock.scores)


# ---------------------------------------------------------------------------------------- LazyConfig


def _box_predictor(channels, **kwargs):
    return L(FastRCNNOutputLayers)(
        input_shape=ShapeSpec(channels=channels, height=1, width=1),
        box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
        num_classes=4,
        test_score_thresh=0.0,
        **kwargs,
    )


def _matcher(threshold=0.5):
    return L(Matcher)(thresholds=[threshold], labels=[0, 1], allow_low_quality_matches=False)


def _box_head():
    return L(FastRCNNConvFCHead)(
        input_shape=ShapeSpec(channels=8, height=7, width=7), conv_dims=[], fc_dims=[16]
    )


def _lazy_heads(kind, target, pooler):
    """Heads as a LazyConfig would have them, on p2 and p3 (or res4) of 8 channels."""

    def make(size):
        scales = (1 / 16,) if kind == "Res5" else (1 / 4, 1 / 8)
        return L(pooler)(
            output_size=size, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2"
        )

    common = {"num_classes": 4, "batch_size_per_image": 8, "positive_fraction": 0.25}
    if kind == "Res5":
        return L(target)(
            **common,
            proposal_matcher=_matcher(),
            in_features=["res4"],
            pooler=make(14),
            res5=L(ResNet.make_stage)(
                block_class=BottleneckBlock, num_blocks=1, stride_per_block=[2], in_channels=8,
                bottleneck_channels=8, out_channels=16, norm="FrozenBN",
            ),
            box_predictor=_box_predictor(16),
            mask_head=L(MaskRCNNConvUpsampleHead)(
                input_shape=ShapeSpec(channels=16, width=14, height=14), num_classes=4, conv_dims=[8]
            ),
        )  # fmt: skip
    heads = L(target)(
        **common,
        box_in_features=["p2", "p3"],
        box_pooler=make(7),
        mask_in_features=["p2", "p3"],
        mask_pooler=make(14),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=ShapeSpec(channels=8, width=14, height=14), num_classes=4, conv_dims=[8, 8]
        ),
    )
    if kind == "Standard":
        heads.update(
            box_head=_box_head(), box_predictor=_box_predictor(16), proposal_matcher=_matcher()
        )
    else:
        heads.update(
            box_heads=[_box_head() for _ in range(2)],
            box_predictors=[_box_predictor(16, cls_agnostic_bbox_reg=True) for _ in range(2)],
            proposal_matchers=[_matcher(0.5), _matcher(0.6)],
        )
    return heads


LAZY = {
    "Standard": (MrcnnExtStandardROIHeads, StandardROIHeads),
    "Cascade": (MrcnnExtCascadeROIHeads, CascadeROIHeads),
    "Res5": (MrcnnExtRes5ROIHeads, Res5ROIHeads),
}


@pytest.mark.parametrize("pooler", [ROIPooler, FusedROIPooler])
@pytest.mark.parametrize("kind", LAZY)
def test_lazy_heads_are_detectron2s_with_another_pooler(kind, pooler):
    torch.manual_seed(0)
    ours, stock = (
        _spread(instantiate(_lazy_heads(kind, target, used))).eval()
        for target, used in zip(LAZY[kind], (pooler, ROIPooler))
    )
    assert {type(item) for item in _poolers(ours)} == {FusedROIPooler}
    ours.load_state_dict(stock.state_dict(), strict=True)
    names = {"res4": 16} if kind == "Res5" else {"p2": 4, "p3": 8}
    features = {
        name: torch.randn(2, 8, 96 // stride, 128 // stride) for name, stride in names.items()
    }
    corner = torch.rand(2, 15, 2) * 60
    boxes = torch.cat([corner, corner + 5 + 40 * torch.rand(2, 15, 2)], dim=2)
    results = []
    for heads in (ours, stock):
        proposals = [Instances((96, 128), proposal_boxes=Boxes(item.clone())) for item in boxes]
        with torch.no_grad():
            results.append(heads(None, features, proposals)[0])
    for first, second in zip(*results):
        assert len(first) == len(second) > 5
        torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor, **CLOSE_BOXES)
        torch.testing.assert_close(first.scores, second.scores, **CLOSE)
        torch.testing.assert_close(first.pred_masks, second.pred_masks, **CLOSE)


class _PoolingHead(torch.nn.Module):
    def forward(self, features, instances):
        instances[0].pred_masks = self.pooler(list(features.values()), [instances[0].pred_boxes])
        return instances


@pytest.mark.parametrize("kind", ["Standard", "Cascade"])
def test_a_mask_head_may_pool_itself(kind):
    """No mask pooler (MODEL.ROI_MASK_HEAD.POOLER_TYPE ""): the head gets the maps."""
    cfg = _lazy_heads(kind, LAZY[kind][0], ROIPooler)
    cfg.mask_pooler = None
    cfg.mask_head = L(_PoolingHead)()
    heads = instantiate(cfg).eval()
    heads.mask_head.pooler = ROIPooler(7, (1 / 4, 1 / 8), 0, "ROIAlignV2")
    features = {"p2": torch.randn(1, 8, 24, 32), "p3": torch.randn(1, 8, 12, 16), "p4": None}
    boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 60.0]]))
    instances = Instances((96, 128), pred_boxes=boxes, pred_classes=torch.zeros(1))
    (result,) = heads.forward_with_given_boxes(features, [instances])
    assert result.pred_masks.shape == (1, 8, 7, 7)
    assert result.pred_masks.any()
    # A pooler inside of a head is the head's own affair, until it is asked for.
    assert type(heads.mask_head.pooler) is ROIPooler
    assert swap_poolers(heads) == 1


class _MapsHead(torch.nn.Module):
    """A head of another plugin, that takes a dict of feature maps."""

    needs_maps = True

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.input_shape = input_shape

    def forward(self, features, instances):
        self.seen = features
        return {} if self.training else instances


@pytest.mark.parametrize("kind", ["Standard", "Cascade"])
@pytest.mark.parametrize(
    ("part", "registry"),
    [("mask", ROI_MASK_HEAD_REGISTRY), ("keypoint", ROI_KEYPOINT_HEAD_REGISTRY)],
)
def test_any_head_that_needs_maps_gets_them_without_a_key(kind, part, registry, monkeypatch):
    monkeypatch.setitem(registry._obj_map, "MapsHead", _MapsHead)
    cfg = _with_keypoints(CFGS[kind]())
    node = cfg.MODEL[f"ROI_{part.upper()}_HEAD"]
    node.NAME = "MapsHead"
    assert node.POOLER_TYPE == "ROIAlignV2"
    cfg.MODEL.ROI_HEADS.NAME = f"MrcnnExt{kind}ROIHeads"
    heads = build_model(cfg).roi_heads
    assert getattr(heads, f"{part}_pooler") is None
    other = {"mask": "keypoint", "keypoint": "mask"}[part]
    assert type(getattr(heads, f"{other}_pooler")) is FusedROIPooler
    head = getattr(heads, f"{part}_head")
    assert list(head.input_shape) == cfg.MODEL.ROI_HEADS.IN_FEATURES
    maps = {
        name: torch.zeros(1, 32, 96 // shape.stride, 128 // shape.stride)
        for name, shape in head.input_shape.items()
    }
    instances = Instances((96, 128), pred_boxes=Boxes(torch.tensor([[10.0, 10.0, 50.0, 60.0]])))
    instances.pred_classes = torch.zeros(1, dtype=torch.int64)
    heads.eval().forward_with_given_boxes(maps, [instances])
    assert head.seen.keys() == maps.keys()


def test_heads_copy_a_stock_pooler_and_keep_any_other_module():
    stock = ROIPooler(7, (1 / 4, 1 / 8), 0, "ROIAlignV2")
    heads = _lazy_heads("Standard", MrcnnExtStandardROIHeads, ROIPooler)
    own = torch.nn.Identity()
    heads.box_pooler, heads.mask_pooler = stock, own
    heads = instantiate(heads)
    assert type(heads.box_pooler) is FusedROIPooler
    assert type(stock) is ROIPooler
    assert heads.mask_pooler is own


# ------------------------------------------------------------------------------------------- exports

FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": torch.Tensor,
    "pred_boxes": Boxes,
    "scores": torch.Tensor,
    "pred_classes": torch.Tensor,
    "pred_masks": torch.Tensor,
    "pred_keypoints": torch.Tensor,
    "pred_keypoint_heatmaps": torch.Tensor,
}


def _export_cfg(kind):
    """On Detectron2's own ResNet-18, which can be scripted, as timm's features_only models cannot."""
    cfg = CFGS[kind]()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    fpn = kind != "Res5"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone" if fpn else "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"] if fpn else ["res4"]
    cfg.MODEL.ROI_HEADS.NAME = f"MrcnnExt{kind}ROIHeads"
    return cfg


def _image(height=96, width=128, seed=7):
    return torch.randint(
        0, 255, (3, height, width), generator=torch.Generator().manual_seed(seed)
    ).float()


def _infer(model, image):
    with torch.no_grad():
        return model.inference([{"image": image}], do_postprocess=False)


def _export_model(kind):
    cfg = _export_cfg(kind.split()[0])
    if "keypoints" in kind:
        _with_keypoints(cfg)
    if "boxes" in kind:
        cfg.MODEL.MASK_ON = False
    return _build(cfg).eval()


def _assert_close_instances(result, expected):
    assert len(expected) > 5
    torch.testing.assert_close(result.pred_boxes.tensor, expected.pred_boxes.tensor, **CLOSE_BOXES)
    for name in ("scores", "pred_masks", "pred_keypoint_heatmaps"):
        if expected.has(name):
            torch.testing.assert_close(getattr(result, name), getattr(expected, name), **CLOSE)


@pytest.mark.parametrize(
    "kind",
    [
        "Standard",
        "Standard with keypoints",
        "Res5",
        "Res5 with keypoints",
        "Standard boxes",
        "Res5 boxes",
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.")
def test_a_scripted_model_answers_the_same(kind):
    model = _export_model(kind)
    expected = [_infer(model, _image())[0], _infer(model, _image(64, 96, seed=8))[0]]
    scripted = scripting_with_instances(model, FIELDS)
    with torch.no_grad(), torch.jit.optimized_execution(False):
        results = [
            scripted.inference([{"image": image}], do_postprocess=False)[0]
            for image in (_image(), _image(64, 96, seed=8))
        ]
    for result, instances in zip(results, expected):
        _assert_close_instances(result, instances)
    assert "mrcnn_ext::" not in str(scripted.inlined_graph)
    # and the model is what it was
    assert {type(pooler) for pooler in _poolers(model)} == {FusedROIPooler}
    assert torch.equal(_infer(model, _image())[0].scores, expected[0].scores)


@pytest.mark.parametrize("kind", ["Standard", "Cascade", "Res5", "Res5 with keypoints"])
@pytest.mark.filterwarnings("ignore")  # hundreds, of the tracer
def test_a_traced_model_answers_the_same(kind):
    model = _export_model(kind)
    adapter = TracingAdapter(model, _image(), _infer)
    traced = torch.jit.trace(adapter, adapter.flattened_inputs)
    assert "mrcnn_ext::" not in str(traced.inlined_graph)
    for image in (_image(), _image(seed=9)):
        with torch.jit.optimized_execution(False):
            (result,) = adapter.outputs_schema(traced(image))
        _assert_close_instances(result, _infer(model, image)[0])


# -------------------------------------------------------------------------------- C4 with keypoints


def _c4_keypoints(mask=True):
    cfg = _with_keypoints(_c4_cfg())
    cfg.MODEL.ROI_HEADS.NAME = "MrcnnExtRes5ROIHeads"
    cfg.MODEL.MASK_ON = mask
    return cfg


def _record(heads):
    """What the heads get and sample, of every call from now on."""
    calls = []
    sample, transform = heads.label_and_sample_proposals, heads._shared_roi_transform

    def record_sample(*args):
        calls.append({"proposals": sample(*args)})
        return calls[-1]["proposals"]

    def record_transform(features, boxes):
        if not calls or "maps" in calls[-1]:
            calls.append({})
        calls[-1]["maps"] = features
        return transform(features, boxes)

    heads.label_and_sample_proposals, heads._shared_roi_transform = record_sample, record_transform
    return calls


def _pool_again(heads, maps, boxes):
    return heads.res5(ROIPooler(14, (1 / 16,), 0, "ROIAlignV2")(maps, boxes))


@pytest.mark.parametrize("mask", [True, False])
def test_c4_keypoint_loss_is_that_of_the_selected_proposals(mask):
    cfg = _c4_keypoints(mask)
    model = _build(cfg)
    heads = model.roi_heads
    assert type(heads.keypoint_head) is KRCNNConvDeconvUpsampleHead
    calls, given = _record(heads), []
    heads.keypoint_head.register_forward_pre_hook(lambda _, arguments: given.extend(arguments))
    batch = _inputs(cfg)
    # The first image's keypoints are too far off to be in any box: its proposals do not count.
    batch[0]["instances"].gt_keypoints.tensor[..., 0] = 1000.0
    losses = train_step(model, batch)
    assert ("loss_mask" in losses) is mask
    assert losses["loss_keypoint"] > 0
    assert heads._step is None

    foreground, _ = select_foreground_proposals(calls[0]["proposals"], heads.num_classes)
    assert not any(item.has("feature_row") for item in calls[0]["proposals"] + given[1])
    with EventStorage():
        selected = select_proposals_with_visible_keypoints(foreground)
    assert len(foreground[0]) >= 2
    assert [len(item) for item in given[1]] == [0, len(selected[1])]
    assert len(given[0]) == len(selected[1]) >= 2
    pooled = _pool_again(heads, calls[0]["maps"], [item.proposal_boxes for item in selected])
    logits = heads.keypoint_head.layers(pooled)
    assert logits.shape[1:] == (NUM_KEYPOINTS, 28, 28)
    expected = keypoint_rcnn_loss(logits, selected, normalizer=None)
    torch.testing.assert_close(losses["loss_keypoint"], expected, rtol=1e-5, atol=1e-5)
    for module in (heads.keypoint_head, heads.res5):
        assert all(p.grad.abs().sum() > 0 for p in module.parameters() if p.requires_grad)


def test_c4_keypoint_head_is_told_the_size_of_its_input(monkeypatch):
    shapes = []
    build = res5_heads.build_keypoint_head
    monkeypatch.setattr(
        res5_heads, "build_keypoint_head", lambda c, shape: shapes.append(shape) or build(c, shape)
    )
    cfg = _c4_keypoints()
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 9
    heads = _build(cfg).roi_heads
    assert shapes == [ShapeSpec(channels=512, height=5, width=5)]
    assert heads.res5(torch.zeros(1, 256, 9, 9)).shape == (1, 512, 5, 5)


def test_c4_keypoint_loss_without_visible_keypoints_is_zero_and_has_gradients():
    cfg = _c4_keypoints()
    model = _build(cfg)
    batch = _inputs(cfg)
    for item in batch:
        item["instances"].gt_keypoints.tensor[..., 2] = 0
    losses = train_step(model, batch)
    assert losses["loss_keypoint"] == 0
    assert all(p.grad is not None for p in model.roi_heads.keypoint_head.parameters())


@pytest.mark.parametrize("mask", [True, False])
def test_c4_keypoints_are_predicted_on_the_detected_boxes(mask):
    cfg = _c4_keypoints(mask)
    model = _build(cfg).eval()
    calls = _record(model.roi_heads)
    image = _image()
    (result,) = _infer(model, image)
    assert len(calls) == 2  # proposals, detections: res5 runs once for both heads
    assert len(result) > 5
    assert result.has("pred_masks") is mask
    assert result.pred_keypoints.shape == (len(result), NUM_KEYPOINTS, 3)
    with torch.no_grad():
        pooled = _pool_again(model.roi_heads, calls[1]["maps"], [result.pred_boxes])
        logits = model.roi_heads.keypoint_head.layers(pooled)
    torch.testing.assert_close(result.pred_keypoint_heatmaps, logits, **CLOSE)
    x, y = result.pred_keypoints[..., :2].unbind(dim=2)
    x0, y0, x1, y1 = result.pred_boxes.tensor[:, :, None].unbind(dim=1)
    assert ((x >= x0) & (x <= x1 + 1) & (y >= y0) & (y <= y1 + 1)).all()

    given = Instances((96, 128), pred_boxes=result.pred_boxes[:3])
    given.pred_classes = result.pred_classes[:3]
    features = {"res4": calls[0]["maps"][0]}
    with torch.no_grad():
        (again,) = model.roi_heads.forward_with_given_boxes(features, [given])
    torch.testing.assert_close(again.pred_keypoints, result.pred_keypoints[:3], **CLOSE)

    model.roi_heads.box_predictor.test_score_thresh = 1.1
    (nothing,) = _infer(model, image)
    assert nothing.pred_keypoints.shape == (0, NUM_KEYPOINTS, 3)


def test_c4_keypoints_add_to_the_state_dict_and_leave_the_rest():
    stock = _build(_c4_cfg())
    ours = _build(_c4_keypoints())
    missing, unexpected = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(key.startswith("roi_heads.keypoint_head.") for key in missing)
    cfg = _with_keypoints(_standard_cfg())
    fpn = {key for key in _build(cfg).state_dict() if ".keypoint_head." in key}
    assert set(missing) == fpn
    ours.checked_weights = None  # inference would refuse random keypoints
    # Masks beside keypoints are those without.
    _assert_same_predictions(_predict(ours, _c4_cfg()), _predict(stock, _c4_cfg()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["MODEL.ROI_MASK_HEAD.POOLER_TYPE", ""],
            r"MODEL\.ROI_MASK_HEAD\.POOLER_TYPE is ''.*MODEL\.ROI_BOX_HEAD\.POOLER_TYPE",
        ),
        (
            ["MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE", ""],
            r"MODEL\.ROI_KEYPOINT_HEAD\.POOLER_TYPE is ''.*MrcnnExtStandardROIHeads",
        ),
        (
            [
                *("MODEL.ROI_HEADS.IN_FEATURES", ["res3", "res4"]),
                *("MRCNN_EXT.TIMM.OUT_FEATURES", ["res3", "res4"]),
            ],
            r"IN_FEATURES is \['res3', 'res4'\], but MrcnnExtRes5ROIHeads takes one map",
        ),
        (
            ["MODEL.ROI_HEADS.IN_FEATURES", ["res5"]],
            r"IN_FEATURES is \['res5'\]; expected some of res4",
        ),
        (
            ["MODEL.RESNETS.RES2_OUT_CHANNELS", 256],
            r"expects 1024 channels \(4 x MODEL\.RESNETS\.RES2_OUT_CHANNELS\), but 'res4' .* has 256",
        ),
    ],
)
def test_what_c4_heads_cannot_do_is_named(changes, message):
    cfg = _c4_keypoints()
    cfg.merge_from_list(changes)
    with pytest.raises(ConfigError, match=message):
        _build(cfg)


@pytest.mark.parametrize("node", ["ROI_MASK_HEAD", "ROI_KEYPOINT_HEAD"])
def test_keys_of_heads_that_are_off_do_not_matter(node):
    cfg = _c4_cfg()
    cfg.MODEL.MASK_ON = False
    cfg.MODEL[node].POOLER_TYPE = ""
    cfg.freeze()
    heads = _build(cfg, "MrcnnExtRes5ROIHeads").roi_heads
    assert not heads.mask_on
    assert not heads.keypoint_on
