# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints that do not fit the model, and files that would run code."""

from __future__ import annotations

import collections
import logging
import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from mrcnn_ext.checkpoint import SafeCheckpointer, check_complete, compare_weights, load_weights
from mrcnn_ext.errors import WeightsError
from tests.helpers import timm_cfg


@pytest.fixture(scope="module")
def cfg():
    return timm_cfg("resnet18", fpn=True)


@pytest.fixture(scope="module")
def model(cfg):
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.fixture
def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def _save(tmp_path, state, name="model.pth"):
    torch.save({"model": state}, tmp_path / name)
    return str(tmp_path / name)


def test_complete_checkpoint_is_loaded(cfg, state, tmp_path):
    torch.manual_seed(1)
    other = build_model(cfg)
    checked = load_weights(other, _save(tmp_path, state), complete=True)
    assert checked.missing == checked.not_finite == checked.other_shape == checked.unused == []
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key])


def test_without_mask_head(cfg, state, tmp_path, caplog):
    cut = {k: v for k, v in state.items() if "mask_head" not in k}
    number = len(state) - len(cut)
    path = _save(tmp_path, cut)
    with pytest.raises(WeightsError, match=rf"model\.pth: lacks {number} .*mask_head \({number}\)"):
        load_weights(build_model(cfg), path, complete=True)
    with caplog.at_level(logging.WARNING):
        checked = load_weights(build_model(cfg), path, complete=False)
    assert set(checked.missing) == set(state) - set(cut)
    assert f"new, starting random: roi_heads.mask_head ({number})" in caplog.text


def test_of_other_classes(cfg, state, tmp_path, caplog):
    other = cfg.clone()
    other.MODEL.ROI_HEADS.NUM_CLASSES = 3
    other.DATASETS.TRAIN = other.DATASETS.TEST = ()
    path = _save(tmp_path, state)
    with pytest.raises(WeightsError, match="the file has 8 classes, the config 3"):
        load_weights(build_model(other), path, complete=True)
    with caplog.at_level(logging.WARNING):
        checked = load_weights(build_model(other), path, complete=False)
    expected = {
        f"roi_heads.{name}.{kind}"
        for name in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
        for kind in ("weight", "bias")
    }
    assert set(checked.missing) == expected
    assert "the file has 8 classes, the config 3" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "none of the model's"),
        (lambda s: {"foo": torch.zeros(3)}, "none of the model's .* it has foo"),
        (lambda s: {k: v * float("nan") for k, v in s.items()}, "NaN or infinite"),
        (
            lambda s: {**s, "backbone.fpn_output2.bias": torch.full((16,), float("inf"))},
            "1 of .* NaN or infinite, 'backbone.fpn_output2.bias'",
        ),
        (lambda s: {**s, "foo": "text"}, "foo"),
    ],
)
def test_useless_weights(model, state, tmp_path, change, message):
    if "backbone.fpn_output2.bias" not in state:
        pytest.fail("the model has other names")
    fresh = build_model(timm_cfg("resnet18", fpn=True))
    with pytest.raises(WeightsError, match=message):
        load_weights(fresh, _save(tmp_path, change(state)), complete=True)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 torn", b"\x80\x04]\x94."])
@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "model.pyth"])
def test_damaged_files(model, tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        load_weights(model, str(tmp_path / name), complete=True)


def test_missing_file(model, tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.pth"):
        load_weights(model, str(tmp_path / "nothing.pth"), complete=True)


def test_shared_and_optional_weights_are_not_missing():
    first = torch.nn.Linear(2, 2)
    shared = torch.nn.ModuleDict({"a": first, "b": first, "norm": torch.nn.BatchNorm1d(2)})
    missing = ["b.weight", "b.bias", "norm.num_batches_tracked"]
    check_complete(compare_weights(shared, missing), "f")
    with pytest.raises(WeightsError, match="f: lacks 3 of"):
        check_complete(compare_weights(shared, ["a.bias", "b.bias", "norm.weight"]), "f")


class _Bomb:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "model.pyth"])
def test_code_in_a_checkpoint_does_not_run(cfg, model, state, tmp_path, name):
    path, mark = tmp_path / name, tmp_path / "ran"
    content = {"model": dict(state), "model_state": {}, "__author__": "x", "extra": _Bomb(mark)}
    if name.endswith(".pkl"):
        content["model"] = {k: v.numpy() for k, v in state.items()}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=r"mkdir.*--trust-pickle"):
        load_weights(model, str(path), complete=True)
    assert not mark.exists()
    if name != "model.pyth":  # torch itself refuses those
        load_weights(build_model(cfg), str(path), complete=True, trust_pickle=True)
        assert mark.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("old_paths", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_zoo_files_pass(cfg, state, tmp_path, protocol, old_paths):
    arrays = collections.OrderedDict((k, v.numpy()) for k, v in state.items())
    content = {"model": arrays, "__author__": "Detectron2", "scale": np.float32(2.5)}
    content |= {"names": ["ä", ("b", None)], "texts": np.array(["ab", "c"])}
    data = pickle.dumps(content, protocol=protocol)
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    if old_paths and protocol < 4 and new in data:  # texts have lengths from protocol 4 on
        data = data.replace(new, old)
    path = tmp_path / "model.pkl"
    path.write_bytes(data)
    torch.manual_seed(2)
    ours, theirs = build_model(cfg), build_model(cfg)
    load_weights(ours, str(path), complete=True)
    DetectionCheckpointer(theirs).load(str(path))
    for key, value in ours.state_dict().items():
        assert torch.equal(value, state[key])
        assert torch.equal(value, theirs.state_dict()[key])


def test_caffe2_files_pass(model, tmp_path):
    """Two-dimensional "blobs" of Detectron 1, with names of that time."""
    path = tmp_path / "model.pkl"
    blobs = {"conv1_w": np.zeros((2, 2), np.float32), "conv1_w_momentum": np.zeros(1)}
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    checkpointer = SafeCheckpointer(model)
    loaded = checkpointer._load_file(str(path))
    assert loaded["__author__"] == "Caffe2"
    assert list(loaded["model"]) == ["conv1_w"]


class _Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class _State:
    """A dtype or array whose state is chosen."""

    def __init__(self, function, args, state):
        self.call = function, args, state

    def __reduce__(self):
        return self.call


_MAKE = np.zeros(1).__reduce__()[0]


@pytest.mark.parametrize(
    "value",
    [
        _Call(eval, "1"),
        _Call(getattr, {}, "pop"),
        _Call(np.load, "x.npy"),
        np.array([object()]),
        np.array([[1], [2, 3]], dtype=object),
        np.zeros(2, dtype=[("a", "f4")]),
        _Call(np.ndarray, (10**12,)),
        _Call(np.dtype, "O"),
        _State(np.dtype, ("f4", False, True), (3, "<", None, ("a",), {"a": 1}, 99, 1, 63)),
        _State(np.dtype, ("f4", False, True), (3, "<", None, None, None, 10**9, 1, 0)),
        _State(_MAKE, (np.ndarray, (0,), b"b"), (1, (10**9,), np.dtype("f4"), False, b"abc")),
        _State(_MAKE, (np.ndarray, (0,), b"b"), (1, (-1,), np.dtype("f4"), False, b"")),
        _Call(_MAKE, dict, (0,), b"b"),
        torch.zeros(1),
    ],
)
def test_other_pickles_are_refused(model, tmp_path, value):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": value}, "__author__": "x"}, protocol=2))
    with pytest.raises(WeightsError, match=r"model\.pkl: .*(--trust-pickle|cannot be read)"):
        load_weights(model, str(path), complete=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as a checkpoint: EOFError"),
        (b"<!DOCTYPE html><html>404", "begins with '<!DOCTYPE html><html>404'"),
        (b"version https://git-lfs.github.com/spec/v1", "begins with 'version https://git-lfs"),
        (
            b"\x00\xffnothing",
            "cannot be read as a checkpoint: UnpicklingError: Unsupported operand 0",
        ),
    ],
)
def test_files_that_are_something_else_are_one_line(tmp_path, content, words):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"w.pth: .*{words}") as error:
        load_weights(torch.nn.Linear(2, 2), str(tmp_path / "w.pth"), complete=False)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)  # torch's advice is to give up safety
