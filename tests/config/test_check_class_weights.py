# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Weights by class in a config: forms, names, rules, heads that do not read them."""

from __future__ import annotations

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mrcnn_ext.config.check import check_config, check_model_and_datasets
from mrcnn_ext.config.check_class_weights import check_class_weights, split_class_weights
from mrcnn_ext.errors import ConfigError
from tests.engine.training_cases import LossTrainer, linear_cfg
from tests.helpers import timm_cfg

KEYS = [f"MRCNN_EXT.{node}.CLASS_WEIGHTS" for node in ("BOX_HEAD", "MASK_HEAD")]


def _cfg(key: str, entries):
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_HEADS.NAME = "MrcnnExtStandardROIHeads"
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MrcnnExtFCNMaskHead"
    cfg.merge_from_list([key, entries])
    return cfg


def test_rule_and_factors_come_apart():
    assert split_class_weights([], "K") == ("", {})
    assert split_class_weights(["inverse_sqrt"], "K") == ("inverse_sqrt", {})
    assert split_class_weights([["ring", 2], ("3", 0.5), [4, 0.0]], "K") == (
        "",
        {"ring": 2.0, "3": 0.5, "4": 0.0},
    )
    assert split_class_weights(["class_balanced", ["a", 1.5]], "K") == (
        "class_balanced",
        {"a": 1.5},
    )


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("entries", "place"),
    [
        (["sqrt"], "[0] is 'sqrt'"),
        ([["ring", 2.0], "inverse_sqrt"], "[1] is 'inverse_sqrt'"),
        ([["ring"]], "[0] is ['ring']"),
        ([["ring", "much"]], "[0] is ['ring', 'much']"),
        ([["ring", -1.0]], "[0] is ['ring', -1.0]; expected a factor of 0 or more"),
        ([["ring", float("inf")]], "[0] is ['ring', inf]"),
        ([["ring", True]], "[0] is ['ring', True]"),
        ([["ring", 1.0], ["ring", 2.0]], " names 'ring' twice"),
        (
            [["ring", 1e39]],
            "[0] is ['ring', 1e+39]; expected a factor of 0 or more, at most 1,000,000",
        ),
        ([""], "[0] is ''"),
        (None, " is None"),
    ],
)
def test_what_is_no_entry(key, entries, place):
    with pytest.raises(ConfigError) as error:
        check_config(_cfg(key, entries))
    assert str(error.value).startswith(f"{key}{place}")


@pytest.mark.parametrize("key", KEYS)
def test_a_name_that_is_no_class_is_found_before_training(key):
    cfg = _cfg(key, [["ring", 2.0], ["stars", 2.0]])
    check_config(cfg)  # to predict, where no training set is asked for
    expected = rf"{key} names 'stars', which is no class.*; similar: star; there are: ring, star,"
    for check in (check_config, check_model_and_datasets):
        with pytest.raises(ConfigError, match=expected):
            check(cfg, training=True)
    cfg.merge_from_list([key, [["ring", 2.0], ["star", 2.0]]])
    check_config(cfg, training=True)


@pytest.mark.parametrize("key", KEYS)
def test_one_class_has_to_count(key):
    names = ["a", "b"]
    cfg = _cfg(key, [["a", 0], ["b", 0.0]])
    with pytest.raises(ConfigError, match=rf"{key} gives every class the factor 0"):
        check_class_weights(cfg, names)
    check_class_weights(_cfg(key, [["a", 0]]), names)


def test_a_script_says_it_before_data_are_read(tmp_path, monkeypatch):
    class Script(LossTrainer):
        pass

    def read(*_, **__):
        raise AssertionError("data were read")

    monkeypatch.setattr("detectron2.data.DatasetCatalog.get", read)
    cfg = linear_cfg(tmp_path)
    cfg.MODEL.ROI_HEADS.NAME = "MrcnnExtRes5ROIHeads"
    cfg.MRCNN_EXT.BOX_HEAD.CLASS_WEIGHTS = [["wheel", 2.0]]
    with pytest.raises(ConfigError, match=r"BOX_HEAD\.CLASS_WEIGHTS names 'wheel', which is no"):
        Script(cfg)


def test_names_of_a_json_that_was_not_read_yet(tmp_path):
    name, file = f"mrcnn_ext_test_weights_{tmp_path.name}", tmp_path / "data.json"
    categories = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    register_coco_instances(name, {}, str(file), str(tmp_path))
    try:
        cfg = _cfg(KEYS[0], [["dogs", 2.0]])
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.MODEL.ROI_HEADS.NUM_CLASSES = (name,), (), 2
        for check in (check_config, check_model_and_datasets):
            with pytest.raises(
                ConfigError, match=r"names 'dogs', .*similar: dog; there are: dog, c"
            ):
                check(cfg, training=True)
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_two_rules_are_one_too_many():
    cfg = _cfg(KEYS[0], ["inverse_sqrt"])
    cfg.MRCNN_EXT.BOX_HEAD.CLS_LOSS = "class_balanced"
    with pytest.raises(ConfigError, match=r"\[0\] is 'inverse_sqrt', and .*CLS_LOSS is 'class_bal"):
        check_class_weights(cfg)
    cfg.MRCNN_EXT.BOX_HEAD.CLASS_WEIGHTS = [["ring", 2.0]]
    check_class_weights(cfg)


@pytest.mark.parametrize(
    ("key", "head", "stock"),
    [
        (KEYS[0], "ROI_HEADS", "StandardROIHeads"),
        (KEYS[1], "ROI_MASK_HEAD", "MaskRCNNConvUpsampleHead"),
    ],
)
def test_a_stock_head_does_not_read_them(key, head, stock):
    cfg = _cfg(key, [["ring", 2.0]])
    cfg.MODEL[head].NAME = stock
    with pytest.raises(ConfigError, match=rf"{key} is .*, which {stock} does not read; "):
        check_config(cfg)
    with pytest.raises(ConfigError, match=rf"{key} is .*, which {stock} does not read; "):
        check_model_and_datasets(cfg, training=True)
