# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""optimize(): the same results up to rounding, the original untouched, one clear error for misuse."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import MetadataCatalog
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from mrcnn_ext.deploy import optimize
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling import FusedROIPooler
from mrcnn_ext.structures import DeferredMaskInstances
from tests.helpers import random_inputs, small_cfg, timm_cfg
from tests.modeling.mask_heads.harness import HEADS, c4_cfg, head_cfg
from tests.modeling.test_registered import _keypoint_head

# The same sums in another order: relative to the largest value; boxes in pixels, scores up to 1.
# Softmax and coordinates enlarge the rounding of untrained weights, whose logits are in the tens.
TOLERANCE = 1e-3


def stock_cfg(**keys):
    """Detectron2's own classes: a thin ResNet-50 with FPN."""
    cfg = small_cfg()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    fpn = timm_cfg("resnet18", fpn=True)
    for node in ("FPN", "ANCHOR_GENERATOR", "RPN", "ROI_HEADS", "ROI_BOX_HEAD", "ROI_MASK_HEAD"):
        cfg.MODEL[node] = fpn.MODEL[node].clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def stock_c4_cfg():
    cfg = stock_cfg(
        MODEL__BACKBONE__NAME="build_resnet_backbone", MODEL__ROI_HEADS__NAME="Res5ROIHeads"
    )
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64]]
    return cfg


def keypoint_cfg(name):
    cfg = _keypoint_head(name)
    cfg.MRCNN_EXT.TIMM.NAME = "lcnet_035"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    return cfg


def small_head_cfg(*arguments):
    """On a timm network with fused norms, which is built and run in no time."""
    cfg = head_cfg(*arguments)
    cfg.MRCNN_EXT.TIMM.NAME = "lcnet_035"
    return cfg


def small_c4_cfg(*arguments):
    """C4's res5 is wide and runs on each region: of those there are few here, and small ones."""
    cfg = c4_cfg(*arguments)
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 4
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 3
    return cfg


CONFIGS = {
    **{name: (small_head_cfg, name) for name in HEADS},
    "cascade": (small_head_cfg, "MrcnnExtFCNMaskHead", "MrcnnExtCascadeROIHeads"),
    "C4": (small_c4_cfg, "MrcnnExtFCNMaskHead", "MrcnnExtRes5ROIHeads"),
    **{
        name: (keypoint_cfg, name)
        for name in (
            "MrcnnExtHeatmapKeypointHead",
            "MrcnnExtSimCCKeypointHead",
            "MrcnnExtRegressionKeypointHead",
            "KRCNNConvDeconvUpsampleHead",
        )
    },
    "stock": (stock_cfg,),
    "stock C4": (stock_c4_cfg,),
}


def build(name: str) -> nn.Module:
    """A model with weights whose norms are not the identity."""
    make, *arguments = CONFIGS[name]
    return shaken(build_model(make(*arguments)))


def shaken(model: nn.Module) -> nn.Module:
    """In evaluation mode, with random statistics in all norms and predictions that differ."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            for name, low, high in (("running_mean", -0.3, 0.3), ("running_var", 0.5, 2.0)):
                value = getattr(module, name)
                value.copy_(torch.empty_like(value).uniform_(low, high, generator=generator))
            if module.weight is not None:
                value = torch.empty_like(module.weight).uniform_(0.1, 0.3, generator=generator)
                module.weight.data.copy_(value)
                module.bias.data.copy_(value - 0.2)
    return model.eval()


def images(sizes=((96, 128), (80, 112))) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "image": torch.randint(0, 255, (3, h, w), generator=generator, dtype=torch.uint8),
            "height": h * 2,
            "width": w * 2,
        }
        for h, w in sizes
    ]


def assert_same(expected: list[dict], found: list[dict], tolerance: float = TOLERANCE) -> None:
    assert len(expected) == len(found)
    for a, b in zip((x["instances"] for x in expected), (x["instances"] for x in found)):
        assert len(a) == len(b) > 0
        assert set(a._fields) == set(b._fields)
        assert torch.equal(a.pred_classes, b.pred_classes)
        for name, value in a.get_fields().items():
            other = b.get(name)
            if name == "pred_masks":
                assert value.dtype == other.dtype == torch.bool
                assert (value != other).float().mean() <= 1e-4
                continue
            value, other = getattr(value, "tensor", value), getattr(other, "tensor", other)
            scale = max(1.0, value.abs().max().item())
            assert (value - other).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("name", CONFIGS)
def test_same_results_and_the_original_is_untouched(name):
    torch.manual_seed(0)
    model = build(name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    with torch.no_grad():
        expected = model(images())
    fast = optimize(model)
    assert_same(expected, fast(images()))
    assert isinstance(fast, type(model))
    assert not fast.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [type(module) for module in model.modules()] == kinds
    assert all(p.is_contiguous() for p in model.parameters())
    with torch.no_grad():
        again = model(images())
    for a, b in zip(expected, again):
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].scores, b["instances"].scores)


@pytest.mark.parametrize("name", ["stock", "MrcnnExtDynamicMaskHead"])
def test_nothing_is_shared_with_the_original(name):
    model = build(name)
    own = {p.data_ptr() for p in [*model.parameters(), *model.buffers()] if p.numel()}
    fast = optimize(model)
    assert not own & {p.data_ptr() for p in [*fast.parameters(), *fast.buffers()] if p.numel()}


def test_in_place_changes_the_model_itself():
    model = build("stock")
    expected = model(images())
    assert optimize(model, in_place=True) is model
    assert_same(expected, model(images()))


@pytest.mark.parametrize("name", ["stock", "stock C4", "MrcnnExtFCNMaskHead"])
def test_folded_float64_features_are_equal_to_ten_digits(name):
    model = build(name).double()
    fast = optimize(model)
    image = model.preprocess_image(images()).tensor
    assert image.dtype == torch.float64
    with torch.no_grad():
        expected, found = model.backbone(image), fast.backbone(image)
        if name == "stock C4":
            expected["res5"] = model.roi_heads.res5(expected["res4"])
            found["res5"] = fast.roi_heads.res5(found["res4"])
    for key, value in expected.items():
        assert (value - found[key]).abs().max() <= 1e-10 * value.abs().max()


def test_a_model_from_lazy_calls():
    model = build("stock")
    lazy = LazyCall(GeneralizedRCNN)(
        backbone=model.backbone,
        proposal_generator=model.proposal_generator,
        roi_heads=model.roi_heads,
        pixel_mean=[103.5, 116.3, 123.7],
        pixel_std=[1.0, 1.0, 1.0],
        input_format="BGR",
    )
    built = instantiate(lazy).eval()
    assert_same(built(images()), optimize(built)(images()))


def test_no_norm_is_left_and_poolers_are_fused():
    fast = optimize(build("stock"))
    names = {type(module).__name__ for module in fast.modules()}
    assert not [name for name in names if "BatchNorm" in name]
    assert isinstance(fast.roi_heads.box_pooler, FusedROIPooler)
    first = fast.backbone.bottom_up.stem.conv1
    assert first.weight.is_contiguous(memory_format=torch.channels_last)


def test_group_norm_stays():
    model = shaken(build_model(stock_cfg(MODEL__FPN__NORM="GN", MODEL__FPN__OUT_CHANNELS=32)))
    fast = optimize(model)
    assert [m for m in fast.modules() if isinstance(m, nn.GroupNorm)]
    assert_same(model(images()), fast(images()))


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_trainable_norms_are_folded_as_they_compute_in_testing(norm):
    cfg = stock_cfg(MODEL__RESNETS__NORM=norm, MODEL__BACKBONE__FREEZE_AT=0)
    model = shaken(build_model(cfg))
    assert_same(model(images()), optimize(model)(images()))


def test_blocks_of_two_convolutions():
    cfg = stock_cfg(MODEL__RESNETS__DEPTH=18, MODEL__RESNETS__RES2_OUT_CHANNELS=64)
    model = shaken(build_model(cfg))
    assert_same(model(images()), optimize(model)(images()))


def test_more_classes_than_one_and_class_agnostic_masks():
    model = shaken(build_model(stock_cfg(MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=True)))
    assert_same(model(images()), optimize(model)(images()))


def test_an_image_without_detections():
    model = shaken(build_model(stock_cfg(MODEL__ROI_HEADS__SCORE_THRESH_TEST=1.0)))
    (result,) = optimize(model)(images()[:1])
    assert len(result["instances"]) == 0
    assert result["instances"].pred_masks.shape == (0, 192, 256)


def test_results_are_ordinary_tensors_and_masks_deferred():
    (result, _) = optimize(build("stock"))(images())
    found = result["instances"]
    assert isinstance(found, DeferredMaskInstances)
    assert found.deferred_masks is not None
    found.pred_boxes.scale(0.5, 0.5)  # in place, as evaluators do
    assert not any(t.is_inference() for t in (found.scores, found.pred_boxes.tensor))
    (pasted,) = optimize(
        shaken(
            build_model(
                _with(small_head_cfg("MrcnnExtFCNMaskHead"), "MRCNN_EXT.DEFER_MASKS", False)
            )
        )
    )(images()[:1])
    assert type(pasted["instances"]) is Instances


def _with(cfg, key, value):
    cfg.merge_from_list([key, value])
    return cfg


def test_raw_results_and_given_boxes():
    model = build("stock")
    fast = optimize(model)
    given = Instances((96, 128), pred_boxes=Boxes(torch.tensor([[10.0, 10, 60, 50]])))
    given.pred_classes = torch.tensor([3])
    with torch.no_grad():
        (a,) = model.inference(images()[:1], [copy.deepcopy(given)], do_postprocess=False)
        (b,) = fast.inference(images()[:1], [copy.deepcopy(given)], do_postprocess=False)
    assert a.pred_masks.shape == b.pred_masks.shape
    assert torch.allclose(a.pred_masks, b.pred_masks, atol=1e-4)


def test_test_time_augmentation():
    cfg = stock_cfg(TEST__AUG__MIN_SIZES=(64, 96), TEST__AUG__FLIP=True)
    MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    model = shaken(build_model(cfg))
    inputs = random_inputs(cfg, number=1)
    inputs[0]["file_name"] = ""
    with torch.no_grad():
        results = [
            GeneralizedRCNNWithTTA(cfg, m)(copy.deepcopy(inputs)) for m in (model, optimize(model))
        ]
    assert_same(*results)


@pytest.mark.parametrize("kind", ["RetinaNet", "PanopticFPN"])
def test_other_models(kind):
    cfg = stock_cfg(MODEL__META_ARCHITECTURE=kind)
    if kind == "RetinaNet":
        cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
        cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.RETINANET.NUM_CLASSES = 4
        cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
        cfg.MODEL.MASK_ON = False
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    model = shaken(build_model(cfg))
    with torch.no_grad():
        expected = model(images())
    fast = optimize(model)
    found = fast(images())
    if kind == "PanopticFPN":
        assert_same(expected, found)
        assert torch.allclose(expected[0]["sem_seg"], found[0]["sem_seg"], atol=1e-3)
        assert len(found[0]["panoptic_seg"]) == 2
        return
    assert len(found[0]["instances"]) == len(expected[0]["instances"]) > 0
    # Untrained, its boxes score the same, and any of them may come first: compare before the choice.
    maps = [m.backbone(m.preprocess_image(images()).tensor) for m in (model, fast)]
    both = [
        [*m.head([x[name] for name in m.head_in_features])[1]] for m, x in zip((model, fast), maps)
    ]
    for a, b in zip(*both):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_model_with_an_inference_of_its_own_keeps_it():
    class Counting(GeneralizedRCNN):
        def inference(self, batched_inputs, detected_instances=None, do_postprocess=True):
            results = super().inference(batched_inputs, detected_instances, do_postprocess)
            return [{**result, "number": len(result["instances"])} for result in results]

    model = build("stock")
    model.__class__ = Counting
    fast = optimize(model)
    for results in (fast(images()), fast.inference(images())):
        assert [result["number"] for result in results] == [5, 5]
        assert not results[0]["instances"].scores.is_inference()


def test_recomputed_blocks_are_fused_like_others():
    cfg = stock_cfg(MODEL__META_ARCHITECTURE="MrcnnExtRCNN")
    cfg.MRCNN_EXT.COMPUTE.CHECKPOINT_BACKBONE = True
    model = shaken(build_model(cfg))
    fast = optimize(model)
    names = {type(module).__name__ for module in fast.modules()}
    assert "_BottleneckBottleneckBlock" in names
    assert not [name for name in names if "Recomputed" in name]
    assert_same(model(images()), fast(images()))


def test_what_an_optimized_model_refuses():
    model = build("stock")
    fast = optimize(model)
    with pytest.raises(RuntimeError, match="made for inference by mrcnn_ext"):
        fast.train()
    fast.training = True
    with pytest.raises(RuntimeError, match="Train the model that it was made from"):
        fast(images())
    fast.eval()
    with pytest.raises(RuntimeError, match="load the weights before"):
        fast.load_state_dict(model.state_dict())
    with pytest.raises(ConfigError, match="optimized already"):
        optimize(fast)
    assert_same(fast(images()), copy.deepcopy(fast)(images()))


def test_what_optimize_refuses():
    with pytest.raises(ConfigError, match="takes a Detectron2 model, not Linear"):
        optimize(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="build it first"):
        optimize(LazyCall(GeneralizedRCNN)(backbone=None))
    with pytest.raises(ConfigError, match="pass its attribute 'module'"):
        optimize(nn.DataParallel(build("stock")))
    with pytest.raises(ConfigError, match=r"dtype is 'int8'; expected one of \['auto', 'float32'"):
        optimize(build("stock"), dtype="int8")


# ---- A floor for masks -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stock", "stock C4", "MrcnnExtFCNMaskHead", "cascade"])
def test_detections_below_the_floor_keep_everything_but_the_mask(name):
    model = build(name)
    (expected, _) = (x["instances"] for x in optimize(model)(images()))
    floor = float(expected.scores.sort().values[-2])
    fast = optimize(model, min_mask_score=floor)
    (found, _) = (x["instances"] for x in fast(images()))
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    above = found.scores >= floor
    assert 0 < above.sum() < len(found)
    assert (found.pred_masks[above] != expected.pred_masks[above]).float().mean() < 1e-3
    assert not found.pred_masks[~above].any()


def test_no_detection_above_the_floor():
    found = optimize(build("stock"), min_mask_score=1.0)(images())[0]["instances"]
    assert len(found) == len(found.pred_masks) > 0
    assert not found.pred_masks.any()


def test_a_floor_that_cannot_be_followed():
    with pytest.raises(ConfigError, match="min_mask_score is 2; expected 0 to 1"):
        optimize(build("stock"), min_mask_score=2)
    model = build("C4")
    model.roi_heads.keypoint_on = True
    with pytest.raises(ConfigError, match=r"which MrcnnExtRes5ROIHeads cannot follow"):
        optimize(model, min_mask_score=0.5)
