# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keys of training: errors name the key, its value and what was expected."""

import pytest
from detectron2.config import get_cfg

from mrcnn_ext import add_mrcnn_ext_config
from mrcnn_ext.config.check_training import check_training, set_training_keys
from mrcnn_ext.errors import ConfigError


def _config(*opts):
    cfg = get_cfg()
    add_mrcnn_ext_config(cfg)
    cfg.merge_from_list([part for key, value in opts for part in (f"MRCNN_EXT.{key}", value)])
    return cfg


def test_the_defaults_are_right_and_set_nothing():
    cfg = _config()
    check_training(cfg)
    assert set_training_keys(cfg) == []


def test_set_keys_are_listed():
    cfg = _config(("EMA.ENABLED", True), ("LOG.WRITERS", ["wandb"]), ("BOX_HEAD.CLS_LOSS", "focal"))
    assert set_training_keys(cfg) == ["MRCNN_EXT.EMA.ENABLED", "MRCNN_EXT.LOG.WRITERS"]
    check_training(cfg)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("SOLVER.OPTIMIZER", "Adam", "'' or 'SGD' or 'AdamW'"),
        ("SOLVER.SCHEDULE", "poly", "'cosine'"),
        ("SOLVER.LAYER_DECAY", 0.0, "more than 0 and at most 1"),
        ("SOLVER.LAYER_DECAY", float("nan"), "more than 0 and at most 1"),
        ("SOLVER.ACCUMULATE", 0, "1 or more"),
        ("SOLVER.ACCUMULATE", 3, "a divisor of SOLVER.IMS_PER_BATCH, 16"),
        ("SOLVER.CLIP_NORM", -1.0, "at least 0"),
        ("SOLVER.BETAS", [0.9], "two numbers"),
        ("SOLVER.BETAS", [0.9, 1.0], "two numbers"),
        ("SOLVER.ACCUMULATE_NORMALIZER", "batch", "'whole_batch'"),
        ("EMA.DECAY", 1.0, "at least 0 and less than 1"),
        ("EARLY_STOPPING.PATIENCE", 0, "1 or more"),
        ("EARLY_STOPPING.MODE", "up", "'max' or 'min'"),
        ("LOG.WRITERS", ["wandbb"], "similar: wandb"),
        ("LOG.PERIOD", 0, "1 or more"),
        ("BOX_HEAD.CLS_LOSS", "cb", "'class_balanced'"),
    ],
)
def test_a_wrong_value_is_named(key, value, expected):
    with pytest.raises(ConfigError) as error:
        check_training(_config((key, value)))
    assert f"MRCNN_EXT.{key} is {value!r}" in str(error.value)
    assert expected in str(error.value)


def test_early_stopping_needs_an_evaluation():
    with pytest.raises(ConfigError, match="nothing is evaluated"):
        check_training(_config(("EARLY_STOPPING.METRIC", "segm/AP")))
