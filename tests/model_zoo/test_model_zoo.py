# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Every config that is shipped loads, builds, and says the same in yaml and as LazyConfig."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.modeling import build_model

from mrcnn_ext import model_zoo
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.meta_arch import MrcnnExtRCNN

ALL = model_zoo.list_configs()
YAML = [name for name in ALL if name.endswith(".yaml")]
LAZY = [name for name in ALL if name.endswith(".py")]


def _build(name):
    """The model of a config, on the CPU, without weights."""
    cfg = model_zoo.get_config(name)
    if name.endswith(".py"):
        return instantiate(cfg.model)
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def test_configs_are_found():
    assert len(YAML) >= 9
    assert len(LAZY) >= 4
    assert "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml" in ALL
    assert not any("Base" in name or "common" in name for name in ALL)


def _quick(names: list[str], is_slow) -> list:
    """The names; those of large models that are much like others are marked slow."""
    return [pytest.param(n, marks=pytest.mark.slow) if is_slow(n) else n for n in names]


@pytest.mark.parametrize("name", _quick(ALL, lambda name: "_3x" in name))
def test_config_builds_its_model(name):
    model = _build(name)
    assert isinstance(model, MrcnnExtRCNN)
    heads = model.roi_heads
    assert heads.mask_on or heads.keypoint_on if hasattr(heads, "mask_on") else True


@pytest.mark.parametrize(
    "name", _quick(LAZY, lambda name: "_R_50_" in name and "refine" not in name)
)
def test_lazy_config_is_the_same_model_as_yaml(name):
    lazy, yaml = _build(name), _build(name.replace(".py", ".yaml"))
    lazy_shapes, yaml_shapes = (
        {key: tuple(value.shape) for key, value in model.state_dict().items()}
        for model in (lazy, yaml)
    )
    assert lazy_shapes == yaml_shapes
    trained = [
        {key for key, value in model.named_parameters() if value.requires_grad}
        for model in (lazy, yaml)
    ]
    assert trained[0] == trained[1]
    assert lazy.input_format == yaml.input_format
    # Same weights, same picture: same answer. Thresholds, anchors and the like agree then too.
    lazy.load_state_dict(yaml.state_dict())
    image = torch.randint(0, 255, (3, 160, 224), generator=torch.Generator().manual_seed(0))
    answers = []
    for model in (lazy.eval(), yaml.eval()):
        assert model.pixel_mean.flatten().tolist() == pytest.approx(
            yaml.pixel_mean.flatten().tolist()
        )
        with torch.no_grad():
            answers.append(model([{"image": image.float()}])[0]["instances"])
    assert len(answers[0]) == len(answers[1])
    torch.testing.assert_close(answers[0].scores, answers[1].scores)
    torch.testing.assert_close(answers[0].pred_boxes.tensor, answers[1].pred_boxes.tensor)


@pytest.mark.parametrize("name", [n for n in LAZY if "COCO" in n])
def test_lazy_data_have_the_channel_order_of_the_model(name):
    cfg = model_zoo.get_config(name)
    assert cfg.dataloader.train.mapper.image_format == cfg.model.input_format
    assert cfg.dataloader.test.mapper.image_format == cfg.model.input_format


@pytest.mark.parametrize("name", [n for n in YAML if "_3x" in n])
def test_3x_differs_from_1x_in_the_schedule_only(name):
    three, one = model_zoo.get_config(name), model_zoo.get_config(name.replace("_3x", "_1x"))
    assert three.SOLVER.MAX_ITER == 3 * one.SOLVER.MAX_ITER
    for key in ("MAX_ITER", "STEPS"):
        three.SOLVER[key] = one.SOLVER[key]
    assert three.dump() == one.dump()


def test_imagenet_resnet_checkpoint_in_detectron2s_format_loads(tmp_path):
    """R-50.pkl is a pickled dict of numpy arrays under Caffe2's names."""
    import pickle

    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    rng = np.random.default_rng(0)
    weights = {
        "conv1_w": rng.standard_normal((64, 3, 7, 7)).astype(np.float32),
        "res_conv1_bn_s": rng.standard_normal(64).astype(np.float32),
        "res4_5_branch2b_w": rng.standard_normal((256, 256, 3, 3)).astype(np.float32),
    }
    with open(tmp_path / "R-50.pkl", "wb") as file:
        pickle.dump(weights, file)
    DetectionCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    stem, res4 = model.backbone.bottom_up.stem.conv1, model.backbone.bottom_up.res4[5].conv2
    np.testing.assert_array_equal(stem.weight.detach(), weights["conv1_w"])
    np.testing.assert_array_equal(stem.norm.weight, weights["res_conv1_bn_s"])
    np.testing.assert_array_equal(res4.weight.detach(), weights["res4_5_branch2b_w"])


def test_get_returns_a_model_ready_to_predict(tmp_path, monkeypatch):
    yaml = "Shapes/mask_rcnn_Lite0_FPN.yaml"
    model = model_zoo.get(yaml, device="cpu")
    assert not model.training
    from detectron2.utils.file_io import PathManager

    file = PathManager.get_local_path("timm://tf_efficientnet_lite0@package")
    source = torch.load(file, weights_only=True)["model"]["body.conv_stem.weight"]
    torch.testing.assert_close(model.backbone.bottom_up.body.conv_stem.weight, source)
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 96, 96)}])
    assert "instances" in result


def test_unknown_names_and_untrained_weights_are_named():
    with pytest.raises(
        ConfigError, match=r"no config 'Shapes/mask_rcnn_Lite0.yaml'; similar ones: S"
    ):
        model_zoo.get_config("Shapes/mask_rcnn_Lite0.yaml")
    with pytest.raises(ConfigError, match="no trained weights come with the package for"):
        model_zoo.get("Shapes/mask_rcnn_Lite0_FPN.yaml", trained=True)
