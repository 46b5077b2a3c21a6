# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""LazyConfigs make the models that the yaml files of the same name make."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_mask_head, build_model

from mrcnn_ext.config.load import load_config
from tests.helpers import REPO

NAMES = ("boundary_mask", "deep_mask", "dynamic_mask", "point_rend", "refine_mask")
FOLDER = REPO / "configs" / "COCO-InstanceSegmentation"


def _settings(module: torch.nn.Module) -> dict:
    """What a module and those in it were told: names and values of plain attributes."""
    plain = (bool, int, float, str, list, tuple)
    return {
        f"{path}.{name}": list(value) if isinstance(value, (list, tuple)) else value
        for path, child in module.named_modules()
        for name, value in vars(child).items()
        if isinstance(value, plain) and not name.startswith("_")
    }


@pytest.mark.parametrize("name", NAMES)
def test_lazy_config_is_the_yaml(name):
    cfg = load_config(str(FOLDER / f"{name}_R_50_FPN_1x.yaml"))
    shapes = {f"p{i}": ShapeSpec(channels=256, stride=2**i) for i in range(2, 6)}
    expected = build_mask_head(cfg, shapes)
    roi_heads = LazyConfig.load(str(FOLDER / f"{name}_R_50_FPN_1x.py")).model.roi_heads
    assert roi_heads.mask_pooler is None
    head = instantiate(roi_heads.mask_head)
    assert type(head) is type(expected)
    assert _settings(head) == _settings(expected)
    weights = expected.state_dict()
    assert {k: v.shape for k, v in head.state_dict().items()} == {
        k: v.shape for k, v in weights.items()
    }
    head.load_state_dict(weights)


def test_lazy_pose_config_is_the_yaml():
    folder = REPO / "configs" / "COCO-PersonSubset"
    expected = build_model(load_config(str(folder / "pose_Lite0_FPN_cpu.yaml")))
    model = instantiate(LazyConfig.load(str(folder / "pose_Lite0_FPN_cpu.py")).model)
    weights = expected.state_dict()
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in weights.items()
    }
    heads = [m.roi_heads.keypoint_head for m in (model, expected)]
    assert type(heads[0]) is type(heads[1])
    assert _settings(heads[0]) == _settings(heads[1])
