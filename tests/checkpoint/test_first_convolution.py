# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Weights for three channels in models for other numbers of bands."""

from __future__ import annotations

import logging
import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn
from torch.nn import functional as F

from mrcnn_ext.checkpoint import FirstConvolution, SafeCheckpointer, load_weights
from mrcnn_ext.checkpoint.first_convolution import first_convolutions
from mrcnn_ext.checkpoint.timm_models import create_timm_features
from mrcnn_ext.errors import ConfigError, WeightsError
from tests.data.band_cases import use_bands
from tests.helpers import small_cfg, timm_cfg

STEM = {
    "tiny": "backbone.bottom_up.stem.conv1.weight",
    "timm": "backbone.bottom_up.body.conv1.weight",
    "resnet": "backbone.bottom_up.stem.conv1.weight",
}
KINDS = ["tiny", *(pytest.param(k, marks=pytest.mark.slow) for k in ("timm", "resnet"))]


class Tiny(nn.Module):
    """Names and shapes of a detector's first layers."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(bands, 1, 1), False)
        first, second = nn.Conv2d(bands, 8, 7, bias=False), nn.Conv2d(8, 8, 3)
        bottom_up = nn.ModuleDict({"stem": nn.ModuleDict({"conv1": first}), "res2": second})
        self.backbone = nn.ModuleDict({"bottom_up": bottom_up})
        self.head = nn.Conv2d(bands, 4, 1)  # as many channels, but no image


def _cfg(kind: str, bands: int):
    cfg = timm_cfg("resnet18", fpn=True)
    if kind == "resnet":
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.DEPTH = "build_resnet_fpn_backbone", 18
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return cfg if bands == 3 else use_bands(cfg, range(bands))


def _model(kind: str, bands: int) -> nn.Module:
    return Tiny(bands) if kind == "tiny" else build_model(_cfg(kind, bands))


def _load(model, path, how=None):
    checkpointer = SafeCheckpointer(model)
    checkpointer.first_convolution = how
    checkpointer.load(str(path))
    return checkpointer


@pytest.fixture
def files(tmp_path):
    """Of a kind: state, file of the whole model, and of its backbone as the zoo and timm have it."""

    def write(kind: str):
        state = _model(kind, 3).state_dict()
        torch.save({"model": state}, tmp_path / "whole.pth")
        prefix = "backbone.bottom_up."
        part = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if kind == "timm":
            torch.save({"model": part, "matching_heuristics": True}, tmp_path / "part.pth")
            return state, tmp_path / "whole.pth", tmp_path / "part.pth"
        arrays = {k: v.numpy() for k, v in part.items()}
        content = {"model": arrays, "matching_heuristics": True, "__author__": "tests"}
        (tmp_path / "part.pkl").write_bytes(pickle.dumps(content))
        return state, tmp_path / "whole.pth", tmp_path / "part.pkl"

    return write


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [False, True], ids=["whole", "backbone"])
@pytest.mark.parametrize("bands", [1, 2, 5])
def test_the_mean_of_the_filters(files, kind, part, bands, caplog, monkeypatch):
    state, *paths = files(kind)
    model = _model(kind, bands)
    assert list(first_convolutions(model)) == [STEM[kind]]
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    with caplog.at_level(logging.INFO, "detectron2"):
        checkpointer = _load(model, paths[part], FirstConvolution())
    old, found = state[STEM[kind]], model.state_dict()
    expected = old.double().sum(dim=1, keepdim=True) / bands
    assert torch.allclose(found[STEM[kind]].double(), expected.expand(-1, bands, -1, -1), atol=1e-7)
    others = [k for k in state if k.startswith("backbone.bottom_up.") and k != STEM[kind]]
    assert all(torch.equal(state[k], found[k]) for k in others)
    assert STEM[kind] in checkpointer.checked.loaded
    # A set: a logger that another test has set up may hand a record on twice.
    lines = list({r.getMessage() for r in caplog.records if "made from" in r.getMessage()})
    assert len(lines) == 1
    assert STEM[kind] in lines[0]
    words = "the sum of the filters" if bands == 1 else f"times 3/{bands}"
    assert words in lines[0]


def test_equal_bands_give_what_a_grey_picture_gave():
    weight, grey = torch.randn(8, 3, 7, 7), torch.randn(1, 1, 20, 20)
    expected = F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    for how in (FirstConvolution(), FirstConvolution("copy", (4, 0, 1))):
        for bands in (5, 12):
            found = F.conv2d(grey.expand(-1, bands, -1, -1), how.adapted(weight, bands))
            assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("order", "colours"), [("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])])
def test_copied_filters(order, colours):
    weight = torch.randn(8, 3, 3, 3)
    new = FirstConvolution("copy", (4, 0, 1), order).adapted(weight, 6) * 2
    assert torch.allclose(new[:, [4, 0, 1]], weight[:, colours])
    assert torch.allclose(new[:, [2, 3, 5]], weight.mean(1, keepdim=True).expand(-1, 3, -1, -1))


def test_the_key_says_which_rule():
    cfg = use_bands(small_cfg(), [7, 3, 2, 1])
    keys = cfg.MRCNN_EXT.DATA
    keys.RGB_BANDS, keys.FIRST_CONVOLUTION, cfg.INPUT.FORMAT = [3, 2, 1], "copy", "RGB"
    assert FirstConvolution.from_config(cfg) == FirstConvolution("copy", (1, 2, 3), "RGB")
    for wrong in ({"rule": "sum"}, {"rule": "copy"}, {"weights_order": "GBR"}):
        with pytest.raises(ConfigError, match=f"first_convolution's {next(iter(wrong))[:3]}|rgb"):
            FirstConvolution(**wrong)


@pytest.mark.parametrize("part", [False, True], ids=["whole", "backbone"])
def test_three_channels_load_as_ever_and_random_leaves_the_layer(files, part):
    _, *paths = files("tiny")
    ours, stock = Tiny(3), Tiny(3)
    stock.load_state_dict(ours.state_dict())
    _load(ours, paths[part], FirstConvolution())
    DetectionCheckpointer(stock).load(str(paths[part]))
    pairs = zip(ours.state_dict().values(), stock.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)
    model = Tiny(5)
    before = model.state_dict()[STEM["tiny"]].clone()
    checked = _load(model, paths[part], FirstConvolution("random")).checked
    assert torch.equal(model.state_dict()[STEM["tiny"]], before)
    assert STEM["tiny"] in checked.missing


def test_the_models_own_checkpoint_and_frozen_layers(files, tmp_path, caplog, monkeypatch):
    model, again = Tiny(5), Tiny(5)
    torch.save({"model": model.state_dict()}, tmp_path / "own.pth")
    _load(again, tmp_path / "own.pth", FirstConvolution())
    pairs = zip(model.state_dict().values(), again.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)
    again.backbone.requires_grad_(False)
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    with caplog.at_level(logging.WARNING, "detectron2"):
        _load(again, files("tiny")[1], FirstConvolution())
    assert "It is frozen, so it will not learn the bands" in caplog.text


def test_a_model_that_predicts_takes_no_weights_of_other_channels(files):
    with pytest.raises(WeightsError, match=r"conv1.weight' is \[8, 3, 7, 7\] in the file, but"):
        load_weights(Tiny(5), str(files("tiny")[1]), complete=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "convnext_atto",
        "swin_tiny_patch4_window7_224",
        "mobilenetv3_small_100",
    ],
)
def test_the_layer_is_found_in_other_networks(name, tmp_path):
    cfg = use_bands(timm_cfg(name, fpn=True), range(6))
    model = build_model(cfg)
    body = create_timm_features(name).state_dict()
    torch.save(
        {"model": {f"body.{k}": v for k, v in body.items()}, "matching_heuristics": True},
        tmp_path / "w.pth",
    )
    (stem,) = first_convolutions(model)
    _load(model, tmp_path / "w.pth", FirstConvolution())
    old = body[stem.removeprefix("backbone.bottom_up.body.")]
    expected = old.mean(1, keepdim=True).expand(-1, 6, -1, -1) / 2
    assert torch.allclose(model.state_dict()[stem], expected, atol=1e-7)
