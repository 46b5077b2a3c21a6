# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""MRCNN_EXT.COMPUTE: the same losses and gradients, however training computes them."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.modeling import build_model
from detectron2.structures import Keypoints

from mrcnn_ext import precision
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.compute import Recomputed
from mrcnn_ext.modeling.meta_arch import MrcnnExtRCNN
from tests.deploy.test_optimize import keypoint_cfg, shaken, small_head_cfg, stock_cfg
from tests.helpers import random_inputs, train_step
from tests.modeling.mask_heads.harness import HEADS


def cfg_with(cfg, **keys):
    cfg.MODEL.META_ARCHITECTURE = "MrcnnExtRCNN"
    for key, value in keys.items():
        cfg.MRCNN_EXT.COMPUTE[key.upper()] = value
    return cfg


def step(cfg, state=None, calm: bool = False):
    """Losses, gradients and buffers of one step from the same weights, samples and images.

    Untrained, a ResNet with the identity for norms has features in the thousands; with ``calm`` not.
    """
    torch.manual_seed(0)
    model = build_model(cfg)
    if calm:
        shaken(model)
    if state is not None:
        model.load_state_dict(state)
    batch = random_inputs(cfg)
    if cfg.MODEL.KEYPOINT_ON:
        for item in batch:
            points = torch.rand(2, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, 3) * 40 + 40
            points[..., 2] = 2
            item["instances"].gt_keypoints = Keypoints(points)
    torch.manual_seed(1)
    losses = train_step(model, batch)
    gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return model, losses, gradients, dict(model.named_buffers())


def assert_same_step(a, b, tolerance=1e-3):
    for first, second in zip(a[1:], b[1:]):
        assert first.keys() == second.keys()
        for key, value in first.items():
            value, other = value.detach().double(), second[key].detach().double()
            scale = max(value.abs().max().item(), 1e-3)
            assert (value - other).abs().max() <= tolerance * scale, key


@pytest.mark.parametrize(
    "make",
    [
        stock_cfg,
        *(
            pytest.param(lambda name=name: small_head_cfg(name), marks=pytest.mark.slow)
            for name in HEADS
        ),
        lambda: small_head_cfg("MrcnnExtFCNMaskHead", "MrcnnExtCascadeROIHeads"),
        lambda: keypoint_cfg("MrcnnExtHeatmapKeypointHead"),
    ],
    ids=["stock", *HEADS, "cascade", "keypoints"],
)
def test_channels_last_and_recomputing_give_the_same_losses_and_gradients(make):
    plain = step(cfg_with(make()))
    state = copy.deepcopy(plain[0].state_dict())
    same = step(cfg_with(make(), channels_last=True, checkpoint_backbone=True), state)
    assert any(isinstance(module, Recomputed) for module in same[0].modules())
    convolution = next(p for p in same[0].parameters() if p.dim() == 4 and p.shape[2] == 3)
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert_same_step(plain, same)
    assert plain[0].state_dict().keys() == same[0].state_dict().keys()


def test_recomputing_moves_running_statistics_once():
    keys = {"MODEL__RESNETS__NORM": "BN", "MODEL__BACKBONE__FREEZE_AT": 0}
    plain = step(cfg_with(stock_cfg(**keys)))
    again = step(cfg_with(stock_cfg(**keys), checkpoint_backbone=True))
    norm = "backbone.bottom_up.res3.0.conv1.norm."
    assert plain[3][norm + "num_batches_tracked"] == again[3][norm + "num_batches_tracked"] == 1
    assert again[3][norm + "running_mean"].abs().max() > 0
    assert_same_step(plain, again)


def test_recomputing_keeps_less_in_memory():
    kept = []
    for on in (False, True):
        cfg = cfg_with(stock_cfg(), checkpoint_backbone=on)
        model = build_model(cfg).train()
        model.backbone.bottom_up.requires_grad_()
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model.backbone(torch.rand(1, 3, 64, 64))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_bfloat16_layers_and_float32_losses(monkeypatch):
    monkeypatch.setattr(precision, "why_not", lambda *arguments: "")
    cfg = cfg_with(stock_cfg(), autocast="bfloat16")
    model = build_model(cfg)
    seen = {}
    for name in ("backbone.bottom_up.res3.0.conv1", "proposal_generator.rpn_head"):
        model.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: seen.update(
                {name: getattr(o, "dtype", None) or o[1][0].dtype}
            )
        )
    losses = train_step(model, random_inputs(cfg))
    assert seen["backbone.bottom_up.res3.0.conv1"] == torch.bfloat16
    assert seen["proposal_generator.rpn_head"] == torch.float32
    assert {value.dtype for value in losses.values()} == {torch.float32}
    plain = step(cfg_with(stock_cfg()), calm=True)
    half = step(cfg_with(stock_cfg(), autocast="bfloat16"), calm=True)
    for key, value in plain[1].items():
        assert half[1][key].item() == pytest.approx(value.item(), rel=0.05, abs=0.02)


def test_defaults_change_nothing():
    model = build_model(cfg_with(stock_cfg()))
    assert all(p.is_contiguous() for p in model.parameters())
    assert not any(isinstance(module, Recomputed) for module in model.modules())


def test_errors_name_the_key_or_the_argument(monkeypatch):
    with pytest.raises(ConfigError, match=r"MRCNN_EXT.COMPUTE.AUTOCAST is 'float16'.*SOLVER.AMP"):
        build_model(cfg_with(stock_cfg(), autocast="float16"))
    monkeypatch.setattr(precision, "_processor", lambda: ("Some CPU", frozenset()))
    cfg = cfg_with(stock_cfg(), autocast="bfloat16")
    model = build_model(cfg).train()
    with pytest.raises(ConfigError, match=r"COMPUTE.AUTOCAST is 'bfloat16', but .*Some CPU"):
        train_step(model, random_inputs(cfg))
    parts = {name: getattr(model, name) for name in ("backbone", "proposal_generator", "roi_heads")}
    lazy = LazyCall(MrcnnExtRCNN)(
        **parts, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, checkpoint_backbone=True, autocast="fp8"
    )
    with pytest.raises(ConfigError, match=r"model.autocast is 'fp8'"):
        instantiate(lazy)
    lazy.autocast, lazy.backbone = "", torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"model.checkpoint_backbone is True, but Identity"):
        instantiate(lazy)
    lazy.backbone, lazy.channels_last = parts["backbone"], True
    assert isinstance(instantiate(lazy).backbone.bottom_up.res2[0], Recomputed)
