# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Trained weights that come with the package: whole, small, and read by Detectron2's checkpointer."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from safetensors.torch import load_file

import mrcnn_ext.checkpoint.shipped_weights as module
from mrcnn_ext import model_zoo
from mrcnn_ext.checkpoint import SHIPPED, load_weights, write_shipped
from mrcnn_ext.errors import ConfigError, WeightsError

NAMES = sorted(SHIPPED)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MRCNN_EXT_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_checkpointer_loads_all_of_it(name, cache):
    shipped = SHIPPED[name]
    assert shipped.file.stat().st_size <= 16 * 2**20
    tensors = load_file(str(shipped.file))
    kinds = {t.dtype for t in tensors.values() if t.ndim > 1}
    assert kinds == {torch.float16}
    cfg = model_zoo.get_config(name, trained=True)
    assert f"mrcnn_ext://{name}" == cfg.MODEL.WEIGHTS
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    incompatible = DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    assert not incompatible.get("__unmatched__")
    state = model.state_dict()
    assert {k for k, v in state.items() if v.is_floating_point()} == set(tensors)
    for key, tensor in tensors.items():
        assert torch.equal(state[key], tensor.float())


def test_another_number_of_classes_says_what_is_new(cache, caplog):
    cfg = model_zoo.get_config(NAMES[0], trained=True)
    cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "cpu", 4
    # The other architecture, and keypoints, compare the number with the data set's.
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.KEYPOINT_ON = "GeneralizedRCNN", False
    model = build_model(cfg)
    checked = load_weights(model, cfg.MODEL.WEIGHTS, complete=False)
    new = {name.rpartition(".")[0] for name in checked.missing}
    assert new == {"roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"} | {
        name for name in new if "mask_head.predictor" in name
    }
    assert "box_predictor" in caplog.text


def test_zoo_gives_the_trained_model(cache):
    model = model_zoo.get("person_pose_lite0", trained=True, device="cpu")
    tensors = load_file(str(SHIPPED["person_pose_lite0"].file))
    key = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(model.state_dict()[key], tensors[key].float())
    with pytest.raises(ConfigError, match="no trained weights come with the package for 'Shapes"):
        model_zoo.get_config("Shapes/mask_rcnn_Lite0_FPN.yaml", trained=True)


def test_unknown_name_and_damaged_or_missing_file(cache, monkeypatch, tmp_path):
    with pytest.raises(
        WeightsError, match=r"no model 'person_pose' comes.*there is person_pose_lite0"
    ):
        PathManager.get_local_path("mrcnn_ext://person_pose")
    assert not PathManager.isfile("mrcnn_ext://person_pose")
    name = NAMES[0]
    wrong = dataclasses.replace(SHIPPED[name], sha256="0" * 64)
    monkeypatch.setitem(SHIPPED, name, wrong)
    with pytest.raises(WeightsError, match="is damaged or of another version: its sha256 is"):
        PathManager.get_local_path(f"mrcnn_ext://{name}")
    monkeypatch.setattr(module, "shipped_weights_folder", lambda: tmp_path)
    with pytest.raises(WeightsError, match="is missing; install the package anew"):
        PathManager.get_local_path(f"mrcnn_ext://{name}")
    assert not list((cache / "weights").glob("*.pth"))


def test_written_and_read_back(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "shipped_weights_folder", lambda: tmp_path / "shipped")
    state = {
        "conv.weight": torch.randn(4, 3, 2, 2, dtype=torch.float64),
        "norm.running_var": torch.tensor([1e-9, 7e4]),  # float16 has neither
        "norm.num_batches_tracked": torch.tensor(3),
    }
    shipped = module.ShippedModel("small", "Shapes/mask_rcnn_Lite0_FPN.yaml", "", "a test")
    sha256 = write_shipped(state, shipped.file)
    monkeypatch.setitem(SHIPPED, "small", dataclasses.replace(shipped, sha256=sha256))
    file = PathManager.get_local_path("mrcnn_ext://small")
    found = torch.load(file, weights_only=True)["model"]
    assert set(found) == {"conv.weight", "norm.running_var"}
    assert torch.equal(found["conv.weight"], state["conv.weight"].half().float())
    assert torch.equal(found["norm.running_var"], state["norm.running_var"])
    with pytest.raises(
        WeightsError, match=r"conv.weight: has values that are not finite in .*float16"
    ):
        write_shipped({"conv.weight": torch.full((2, 2), 1e6)}, shipped.file)
    assert module._sha256(shipped.file) == sha256
