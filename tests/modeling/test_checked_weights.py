# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Inference with a checkpoint that does not fit, as ``train_net.py --eval-only`` has it."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from mrcnn_ext.errors import WeightsError
from tests.helpers import random_inputs, timm_cfg, train_step


@pytest.fixture(scope="module")
def cfg():
    return timm_cfg("resnet18", fpn=True)


@pytest.fixture(scope="module")
def state(cfg):
    return build_model(cfg).state_dict()


def _loaded(cfg, state, tmp_path):
    """As Detectron2's tools load it."""
    model = build_model(cfg).eval()
    torch.save({"model": state}, tmp_path / "model.pth")
    DetectionCheckpointer(model).load(str(tmp_path / "model.pth"))
    return model


def _predict(model, cfg):
    with torch.no_grad():
        return model.eval()(random_inputs(cfg, number=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "none of the model's .* it is empty"),
        (lambda s: {k: v for k, v in s.items() if "mask_head" not in k}, "mask_head"),
        (lambda s: {k: v[:1] if "cls_score" in k else v for k, v in s.items()}, "box_predictor"),
        (lambda s: {k: v * float("nan") for k, v in s.items()}, "NaN or infinite"),
        (lambda s: {k[9:]: v for k, v in s.items() if k.startswith("backbone.")}, "lacks|none"),
    ],
)
def test_inference_is_refused_until_it_is_trained(cfg, state, tmp_path, change, message):
    model = _loaded(cfg, change(state), tmp_path)
    with pytest.raises(WeightsError, match=rf"checkpoint \(MODEL\.WEIGHTS\): .*({message})"):
        _predict(model, cfg)
    with pytest.raises(WeightsError):
        _predict(copy.deepcopy(model), cfg)
    if "NaN" not in message:
        train_step(model, random_inputs(cfg))  # fine-tuning: an evaluation follows it
        assert "instances" in _predict(model, cfg)[0]


def test_complete_or_no_checkpoint_is_no_error(cfg, state, tmp_path):
    assert "instances" in _predict(build_model(cfg), cfg)[0]  # random on purpose
    assert "instances" in _predict(_loaded(cfg, state, tmp_path), cfg)[0]
    model = build_model(cfg)
    model.load_state_dict(state)
    assert "instances" in _predict(model, cfg)[0]


def test_two_files_make_one_model(cfg, state):
    model = build_model(cfg)
    backbone = {k: v for k, v in state.items() if k.startswith("backbone.")}
    model.load_state_dict(backbone, strict=False)
    with pytest.raises(WeightsError, match="proposal_generator"):
        _predict(model, cfg)
    model.load_state_dict({k: v for k, v in state.items() if k not in backbone}, strict=False)
    assert "instances" in _predict(model, cfg)[0]


@pytest.mark.parametrize("start", [0, 3])
def test_training_says_what_a_checkpoint_of_other_classes_left_random(
    cfg, state, tmp_path, caplog, start
):
    model = _loaded(cfg, {k: v[:1] if "cls_score" in k else v for k, v in state.items()}, tmp_path)
    model.train()
    with EventStorage(start), caplog.at_level(logging.INFO):
        for _ in range(2):
            model(random_inputs(cfg))
    (record,) = [r for r in caplog.records if "starting random" in r.message]
    assert "roi_heads.box_predictor (2)" in record.message
    assert record.levelname == ("WARNING" if start else "INFO")
    assert ("goes on from iteration 3" in record.message) == bool(start)
    assert ("NUM_CLASSES" in record.message) == bool(start)
    complete = _loaded(cfg, state, tmp_path).train()
    caplog.clear()
    with EventStorage(start):
        complete(random_inputs(cfg))
    assert "starting random" not in caplog.text
