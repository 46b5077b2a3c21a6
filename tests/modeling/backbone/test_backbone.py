# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""timm backbones: shapes, strides, norms, freezing, heads they feed, errors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from torch import nn

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.backbone import TimmBackbone
from tests.helpers import random_inputs, timm_cfg, train_step

# One of each family, small where the family has a small one.
FAMILIES = [
    "resnet18",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "regnety_002",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    pytest.param("swinv2_tiny_window8_256", marks=pytest.mark.slow),
    "pvt_v2_b0",
    "densenet121",
    "hrnet_w18_small",
    "ghostnet_100",
    "mobilevitv2_050",
    "edgenext_xx_small",
    "repvgg_a0",
    "rexnet_100",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_fpn_of_each_family_has_the_promised_shapes_and_round_trips(name, tmp_path):
    cfg = timm_cfg(name, fpn=True)
    if name.startswith("hrnet"):  # all resolutions run side by side: there is no early stage
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
    model = build_backbone(cfg).eval()
    x = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        features = model.bottom_up(x)
        out = model(x)
    shapes = model.bottom_up.output_shape()
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for key, feature in features.items():
        stride = shapes[key].stride
        assert stride == 2 ** int(key[3])
        # NCHW with exact strides: Swin computes in NHWC and must be turned
        assert feature.shape == (2, shapes[key].channels, 128 // stride, 192 // stride)
    assert model.size_divisibility == 32
    assert {k: v.shape[-2:] for k, v in out.items()}["p6"] == (2, 3)

    DetectionCheckpointer(model, str(tmp_path)).save("model")
    other = build_backbone(cfg).eval()
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    with torch.no_grad():
        for key, value in other(x).items():
            torch.testing.assert_close(value, out[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050", "regnety_002"]
)
def test_frozen_bn_equals_eval_mode_of_the_timm_model(name):
    """Detectron2's own conversion drops fused activations; ours must not."""
    torch.manual_seed(0)
    reference = timm.create_model(name, features_only=True)
    for module in reference.modules():  # fresh statistics (0, 1) would hide a mistake
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    backbone = TimmBackbone(model_name=name, norm="FrozenBN")
    backbone.body.load_state_dict(reference.state_dict(), strict=False)
    # Frozen statistics must hold in training mode too. float64: the order of operations differs.
    backbone.train().double()
    reference.eval().double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(x)
        got = backbone(x)
    strides = reference.feature_info.reduction()
    for key, value in got.items():
        want = expected[strides.index(2 ** int(key[3]))]
        torch.testing.assert_close(value, want, rtol=1e-6, atol=1e-6)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())


def test_group_norm_replaces_every_batch_norm_and_keeps_activations():
    bn = TimmBackbone(model_name="tf_efficientnet_lite0", norm="BN")
    gn = TimmBackbone(model_name="tf_efficientnet_lite0", norm="GN")
    count = sum(isinstance(m, nn.BatchNorm2d) for m in bn.modules())
    assert sum(isinstance(m, nn.GroupNorm) for m in gn.modules()) == count
    assert not any(isinstance(m, nn.BatchNorm2d) for m in gn.modules())
    assert sum(isinstance(m, nn.ReLU6) for m in gn.modules()) == sum(
        isinstance(m, nn.ReLU6) for m in bn.modules()
    )
    for module in gn.modules():
        if isinstance(module, nn.GroupNorm):
            assert module.num_channels % module.num_groups == 0
    assert all(torch.isfinite(v).all() for v in gn(torch.randn(1, 3, 64, 64)).values())


def test_sync_bn_converts_every_batch_norm():
    model = TimmBackbone(model_name="tf_efficientnet_lite0", norm="SyncBN")
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)


@pytest.mark.parametrize(
    ("name", "freeze_at", "frozen", "free"),
    [
        ("resnet18", 1, ["conv1", "bn1"], ["layer1"]),
        ("resnet18", 2, ["conv1", "layer1"], ["layer2"]),
        ("tf_efficientnet_lite0", 2, ["conv_stem", "blocks.1"], ["blocks.2"]),
        ("convnext_atto", 1, ["stem_0"], ["stages_0"]),
        ("convnext_atto", 3, ["stages_1"], ["stages_2"]),
        ("swin_tiny_patch4_window7_224", 2, ["patch_embed", "layers_0"], ["layers_1"]),
    ],
)
def test_freeze_at_freezes_up_to_that_stage(name, freeze_at, frozen, free):
    body = TimmBackbone(model_name=name, norm="BN", freeze_at=freeze_at).body
    for prefixes, trains in ((frozen, False), (free, True)):
        for prefix in prefixes:
            parameters = list(body.get_submodule(prefix).parameters())
            assert all(p.requires_grad == trains for p in parameters), prefix
            assert parameters or prefix == "bn1"  # a frozen BatchNorm keeps buffers only


def test_freezing_keeps_outputs_in_training_mode():
    torch.manual_seed(0)
    model = TimmBackbone(model_name="resnet18", norm="BN", freeze_at=5)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = copy.deepcopy(model).eval()(x)
        after = model.train()(x)
    for key in before:
        torch.testing.assert_close(after[key], before[key])


def test_unused_stages_are_not_built():
    c4 = TimmBackbone(model_name="resnet18", out_features=["res4"])
    assert not hasattr(c4.body, "layer4")
    assert c4.size_divisibility == 16
    assert list(c4(torch.randn(1, 3, 64, 64))) == ["res4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MRCNN_EXT.TIMM.NAME": "resnet18x"}, "MRCNN_EXT.TIMM.NAME is 'resnet18x'.*similar"),
        ({"MRCNN_EXT.TIMM.NAME": "vit_tiny_patch16_224"}, "SimpleFeaturePyramid"),
        ({"MRCNN_EXT.TIMM.NORM": "LN"}, "MRCNN_EXT.TIMM.NORM is 'LN'"),
        ({"MRCNN_EXT.TIMM.OUT_FEATURES": ["res2", "res9"]}, "OUT_FEATURES is .*res9.*offers"),
        ({"MODEL.FPN.IN_FEATURES": ["res2", "res1"]}, "MODEL.FPN.IN_FEATURES"),
        ({"MRCNN_EXT.TIMM.NAME": "convnext_atto", "MRCNN_EXT.TIMM.NORM": "GN"}, "no BatchNorm"),
        ({"MODEL.BACKBONE.FREEZE_AT": 9}, "MODEL.BACKBONE.FREEZE_AT is 9"),
        ({"MRCNN_EXT.TIMM.NAME": "hrnet_w18_small"}, "use 0 to freeze nothing"),
    ],
)
def test_bad_values_name_the_key(change, message):
    cfg = timm_cfg("resnet18", fpn=True)
    for key, value in change.items():
        cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=message):
        build_backbone(cfg)


def test_c4_with_res5_heads_trains_a_step():
    cfg = timm_cfg("resnet18", fpn=False)
    with pytest.raises(ConfigError, match="RES2_OUT_CHANNELS to 64"):
        build_backbone(cfg)
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    model = build_model(cfg)
    losses = train_step(model, random_inputs(cfg))
    assert "loss_mask" in losses
    assert all(torch.isfinite(v) for v in losses.values())


def test_c4_error_when_the_map_is_missing():
    cfg = timm_cfg("resnet18", fpn=False)
    cfg.MRCNN_EXT.TIMM.OUT_FEATURES = ["res3"]
    with pytest.raises(ConfigError, match=r"C4 models want \['res4'\]"):
        build_backbone(cfg)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_a_step_of_training_reaches_the_backbone(name):
    cfg = timm_cfg(name, fpn=True)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    torch.manual_seed(0)
    model = build_model(cfg)
    train_step(model, random_inputs(cfg))
    grads = [p.grad for n, p in model.named_parameters() if n.startswith("backbone.bottom_up.")]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)
    assert all(np.isfinite(g.sum().item()) for g in grads if g is not None)


def test_explicit_arguments_and_config_build_the_same():
    cfg = timm_cfg("resnet18", fpn=False)
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    by_config = build_backbone(cfg, ShapeSpec(channels=3))
    by_hand = TimmBackbone(model_name="resnet18", out_features=["res4"], freeze_at=2)
    assert by_config.state_dict().keys() == by_hand.state_dict().keys()
    assert by_config.output_shape() == by_hand.output_shape()
