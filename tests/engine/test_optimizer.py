# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Optimizers: each parameter's rate and decay, steps as torch.optim's by hand, clipping."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from detectron2.solver import build_optimizer as stock_optimizer
from torch import nn

from mrcnn_ext.config.load import default_config
from mrcnn_ext.engine.optimizer import (
    build_optimizer,
    create_optimizer,
    get_param_groups,
    optimizer_keys_set,
)
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.backbone.timm_backbone import TimmBackbone


class Small(nn.Module):
    """A weight and bias, a norm, a frozen layer."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.head(self.norm(self.backbone(x))))


@pytest.fixture
def cfg():
    cfg = default_config()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = 0.1, 0.01
    return cfg


def _settings(optimizer, model):
    """Name -> (lr, weight decay) of what is optimised."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _train(model, optimizer, steps=3):
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(5, 3)).square().sum().backward()
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize("name", ["OPTIMIZER", "LAYER_DECAY", "CLIP_NORM", "BETAS"])
def test_keys_that_ask_for_another_optimizer(cfg, name):
    assert not optimizer_keys_set(cfg)
    cfg.MRCNN_EXT.SOLVER.ACCUMULATE = 2  # this one does not
    assert not optimizer_keys_set(cfg)
    values = {"OPTIMIZER": "SGD", "LAYER_DECAY": 0.5, "CLIP_NORM": 1.0, "BETAS": [0.9, 0.99]}
    cfg.MRCNN_EXT.SOLVER[name] = values[name]
    assert optimizer_keys_set(cfg)


def test_sgd_is_detectron2s(cfg):
    cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.5, 0.25
    cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.NESTEROV = 2.0, True
    cfg.MRCNN_EXT.SOLVER.OPTIMIZER = "SGD"
    torch.manual_seed(0)
    model = Small()
    other = copy.deepcopy(model)
    ours, stock = build_optimizer(cfg, model), stock_optimizer(cfg, other)
    assert _settings(ours, model) == _settings(stock, other)
    assert len(ours.param_groups) == len(stock.param_groups) == 3
    for a, b in zip(_train(model, ours), _train(other, stock)):
        assert torch.equal(a, b)


def test_adamw_is_torchs(cfg):
    keys = cfg.MRCNN_EXT.SOLVER
    keys.OPTIMIZER, keys.BETAS, keys.EPS = "AdamW", [0.8, 0.9], 1e-3
    keys.NO_DECAY_NORM_AND_BIAS = True
    keys.BACKBONE_LR_FACTOR = 0.1
    torch.manual_seed(0)
    model = Small()
    other = copy.deepcopy(model)
    ours = build_optimizer(cfg, model)
    assert _settings(ours, model) == {
        "backbone.weight": (0.1 * 0.1, 0.01),
        "backbone.bias": (0.1 * 0.1, 0.0),
        "norm.weight": (0.1, 0.0),
        "norm.bias": (0.1, 0.0),
        "head.weight": (0.1, 0.01),
        "head.bias": (0.1, 0.0),
    }
    assert len(ours.param_groups) == 4
    by_hand = torch.optim.AdamW(
        [
            {"params": [other.backbone.weight], "lr": 0.01, "weight_decay": 0.01},
            {"params": [other.backbone.bias], "lr": 0.01, "weight_decay": 0.0},
            {"params": [other.head.weight], "weight_decay": 0.01},
            {"params": [*other.norm.parameters(), other.head.bias], "weight_decay": 0.0},
        ],
        lr=0.1,
        betas=(0.8, 0.9),
        eps=1e-3,
    )
    for a, b in zip(_train(model, ours), _train(other, by_hand)):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_layers_of_a_detectron2_resnet(cfg):
    model = nn.Module()
    model.backbone = nn.Module()  # a neck
    with torch.device("meta"):
        stages = ResNet.make_default_stages(18, BasicBlock, norm="BN")
        stem = BasicStem(norm="BN")
        model.backbone.bottom_up = ResNet(stem, stages, out_features=["res5"], freeze_at=1)
        model.backbone.lateral = nn.Conv2d(512, 8, 1)
    cfg.MRCNN_EXT.SOLVER.LAYER_DECAY = 0.5
    cfg.MRCNN_EXT.SOLVER.BACKBONE_LR_FACTOR = 0.25
    settings = _settings(build_optimizer(cfg, model), model)
    rates = {name: lr for name, (lr, _) in settings.items()}
    base = 0.1 * 0.25
    assert not any(name.startswith("backbone.bottom_up.stem") for name in rates)
    for stage, power in (("res2", 4), ("res3", 3), ("res4", 2), ("res5", 1)):
        part = {lr for name, lr in rates.items() if f".{stage}." in name}
        assert list(part) == [pytest.approx(base * 0.5**power)]
    assert rates["backbone.lateral.weight"] == 0.1


@pytest.mark.parametrize(
    ("name", "norm", "depth", "places"),
    [
        # stem, then two blocks in each stage
        ("resnet18", "GN", 9, {"conv1.weight": 0, "layer1.1.bn2.weight": 2, "layer4.1.conv2.": 8}),
        ("convnext_atto", "BN", 13, {"stem_0.weight": 0, "stages_3.blocks.1": 12}),
        ("tf_efficientnet_lite0", "BN", 17, {"conv_stem": 0, "blocks.0.0.": 1, "blocks.6.0.": 16}),
    ],
)
def test_layers_of_timms_models(name, norm, depth, places):
    pytest.importorskip("timm")
    model = nn.Module()
    with torch.device("meta"):
        model.backbone = TimmBackbone(model_name=name, norm=norm)
    groups = get_param_groups(model, base_lr=1.0, layer_decay=0.5)
    assert len(groups) == depth
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    assert set(rates.values()) == {0.5**k for k in range(1, depth + 1)}
    for start, layer in places.items():
        found = {
            rates[p] for n, p in model.named_parameters() if n.startswith(f"backbone.body.{start}")
        }
        assert found == {0.5 ** (depth - layer)}, start


def test_tables_of_positions_are_not_decayed():
    pytest.importorskip("timm")
    model = nn.Module()
    with torch.device("meta"):
        backbone = TimmBackbone(model_name="swin_tiny_patch4_window7_224")
    model.backbone = backbone
    groups = get_param_groups(model, base_lr=1.0, weight_decay=0.1, no_decay_norm_and_bias=True)
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        free = parameter.ndim == 1 or name.endswith("relative_position_bias_table")
        assert decay[parameter] == (0.0 if free else 0.1), name


class Transformer(nn.Module):
    """The parts of Detectron2's ViT (main branch), or of its Swin with stages of blocks."""

    def __init__(self, stages=None):
        super().__init__()
        self.patch_embed = nn.Linear(2, 2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 2))
        if stages is None:
            self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
            return
        self.layers = nn.ModuleList()
        for count in stages:
            stage = nn.Module()
            stage.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(count))
            stage.downsample = nn.Linear(2, 2)
            self.layers.append(stage)
        self.norm0 = nn.LayerNorm(2)


def test_layers_of_transformers():
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.net = Transformer()
    model.backbone.simfp_2 = nn.Linear(2, 2)
    decay = 0.7

    def rates():
        groups = get_param_groups(model, base_lr=1.0, layer_decay=decay)
        return {p: group["lr"] for group in groups for p in group["params"]}

    # As detectron2.modeling.get_vit_lr_decay_rate: decay ** (num_layers + 1 - layer), where embeddings
    # are layer 0, block i is layer i + 1, and all outside of the ViT num_layers + 1.
    expected = {"patch_embed": 4, "pos_embed": 4, "blocks.0": 3, "blocks.1": 2, "blocks.2": 1}
    found = rates()
    for name, parameter in model.backbone.net.named_parameters():
        start = next(key for key in expected if name.startswith(key))
        assert found[parameter] == pytest.approx(decay ** expected[start])
    assert found[model.backbone.simfp_2.weight] == 1.0

    model.backbone.net = swin = Transformer(stages=[2, 1])
    found = rates()
    powers = [
        (swin.patch_embed.weight, 4),
        (swin.layers[0].blocks[0].weight, 3),
        (swin.layers[0].blocks[1].weight, 2),
        (swin.layers[0].downsample.weight, 2),
        (swin.layers[1].blocks[0].weight, 1),
        (swin.norm0.weight, 1),
    ]
    for parameter, power in powers:
        assert found[parameter] == pytest.approx(decay**power)


def test_backbones_without_known_layers(cfg):
    cfg.MRCNN_EXT.SOLVER.LAYER_DECAY = 0.5
    with pytest.raises(ConfigError, match=r"LAYER_DECAY.*layers of Linear are not known"):
        build_optimizer(cfg, Small())
    with pytest.raises(ConfigError, match="Linear has no backbone"):
        get_param_groups(nn.Linear(2, 2), base_lr=1.0, backbone_lr_factor=0.5)
    with pytest.raises(ConfigError, match="nothing can be trained"):
        build_optimizer(default_config(), Small().requires_grad_(False))


def test_detectron2s_clipping_holds(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    cfg.MRCNN_EXT.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.MOMENTUM = cfg.SOLVER.WEIGHT_DECAY = 0.0
    model = Small()
    before = [p.clone() for p in model.parameters()]
    _train(model, build_optimizer(cfg, model), steps=1)
    moved = [float((a - b).detach().norm()) for a, b in zip(model.parameters(), before)]
    assert all(distance <= 0.1 * 0.01 + 1e-6 for distance in moved)
    assert sum(distance > 0.9e-3 for distance in moved) > 1  # each parameter by itself


def test_clipping_of_the_norm_of_all_gradients(cfg):
    cfg.MRCNN_EXT.SOLVER.CLIP_NORM = 0.01
    cfg.SOLVER.MOMENTUM = cfg.SOLVER.WEIGHT_DECAY = 0.0
    model = Small()
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    _train(model, build_optimizer(cfg, model), steps=1)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert float(moved.norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert float(torch.cat([g.flatten() for g in gradients]).norm()) == pytest.approx(
        0.01, rel=1e-3
    )


def test_a_scaler_unscales_before_clipping():
    """Fused optimizers leave that to their kernel, which would come after the clipping."""
    torch.manual_seed(0)
    model = Small()
    other = copy.deepcopy(model)
    optimizer = create_optimizer(
        filter(lambda p: p.requires_grad, model.parameters()),
        name="SGD",
        lr=0.1,
        clip_norm=1.0,
        fused=True,
    )
    plain = torch.optim.SGD(filter(lambda p: p.requires_grad, other.parameters()), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    torch.manual_seed(1)
    x = torch.rand(5, 3)
    scaler.scale(model(x).square().sum()).backward()
    scaler.step(optimizer)
    other(x).square().sum().backward()
    nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    plain.step()
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_lazy_config_as_the_unmodified_script_uses_it():
    config = L(create_optimizer)(
        name="AdamW",
        lr=0.02,
        clip_norm=0.5,
        weight_decay=0.05,
        params=L(get_param_groups)(
            base_lr="${..lr}", backbone_lr_factor=0.1, no_decay_norm_and_bias=True
        ),
    )
    model = Small()
    config.params.model = model
    optimizer = instantiate(config)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.clip_norm == 0.5
    settings = _settings(optimizer, model)
    assert settings["backbone.weight"] == (pytest.approx(0.002), 0.05)
    assert settings["head.bias"] == (0.02, 0.0)
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)


def test_unknown_optimizers():
    with pytest.raises(ConfigError, match=r"'Adamw'.*similar: .*AdamW"):
        create_optimizer([nn.Parameter(torch.zeros(1))], name="Adamw", lr=1.0)
    with pytest.raises(ConfigError, match="clip_norm of the optimizer is -1"):
        create_optimizer([nn.Parameter(torch.zeros(1))], clip_norm=-1, lr=1.0)
