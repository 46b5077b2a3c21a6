# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keys of training: errors name the key, its value and what was expected."""

import pytest
from detectron2.config import get_cfg

from mrcnn_ext import add_mrcnn_ext_config
from mrcnn_ext.config.check_solver import check_given
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


@pytest.mark.parametrize(
    "key",
    [
        *("SOLVER.NO_DECAY_NORM_AND_BIAS", "SOLVER.BETAS", "SOLVER.EPS", "SOLVER.OPTIMIZER"),
        *("EMA.ENABLED", "EARLY_STOPPING.METRIC", "RESUME.EXACT", "LOG.WRITERS", "LOG.PROJECT"),
    ],
)
def test_null_is_no_value(key):
    """Detectron2 takes it for any key: it would switch things off without a word."""
    with pytest.raises(ConfigError, match=f"MRCNN_EXT.{key} is None; expected "):
        check_training(_config((key, None)))


@pytest.mark.parametrize("names", [[None], [["wandb"]], [3]])
def test_writers_that_are_no_texts(names):
    with pytest.raises(ConfigError, match=r"LOG\.WRITERS is .*expected a list of texts"):
        check_training(_config(("LOG.WRITERS", names)))


def test_values_that_were_set_in_python_are_checked_too():
    cfg = _config()
    cfg.MRCNN_EXT.EMA.ENABLED = "False"  # which is true
    with pytest.raises(ConfigError, match=r"EMA\.ENABLED is 'False'; expected True or False"):
        check_training(cfg)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("SOLVER.MAX_ITER", 0, "a whole number, 1 or more"),
        ("SOLVER.MAX_ITER", None, "a whole number, 1 or more"),
        ("SOLVER.IMS_PER_BATCH", None, "a whole number, 1 or more"),
        ("SOLVER.CHECKPOINT_PERIOD", 0, "a whole number, 1 or more"),
        ("SOLVER.WARMUP_ITERS", -1, "a whole number, 0 or more"),
        ("SOLVER.WARMUP_METHOD", "cubic", "'linear' or 'constant'"),
        ("SOLVER.WARMUP_FACTOR", float("nan"), "a number, at least 0"),
        ("SOLVER.BASE_LR", -0.1, "a number, at least 0"),
        ("SOLVER.GAMMA", float("inf"), "a number, at least 0"),
        ("SOLVER.MOMENTUM", 2.0, "less than 1"),
        ("SOLVER.REFERENCE_WORLD_SIZE", 3, "a divisor of SOLVER.IMS_PER_BATCH, 16"),
        ("SOLVER.STEPS", (4, 2), "iterations that rise"),
        ("SOLVER.STEPS", None, "iterations that rise"),
        ("SOLVER.STEPS", ("a",), "iterations that rise"),
        ("DATALOADER.NUM_WORKERS", -1, "a whole number, 0 or more"),
        ("TEST.EVAL_PERIOD", None, "a whole number"),
        ("SEED", None, "a whole number"),
        ("SEED", 2**32, "less than 4294967296"),
    ],
)
def test_keys_of_detectron2_that_end_in_a_traceback(key, value, expected):
    cfg = _config()
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError) as error:
        check_training(cfg, training=True)
    assert str(error.value).startswith(f"{key} is ")
    assert expected in str(error.value)


def test_steps_of_a_schedule_that_has_none_are_not_read():
    cfg = _config(("SOLVER.SCHEDULE", "cosine"))
    cfg.SOLVER.STEPS = (4, 2)
    check_training(cfg, training=True)


@pytest.mark.parametrize("key", ["DATASETS.TRAIN", "DATASETS.TEST", "MODEL.DEVICE"])
def test_what_nothing_works_without(key):
    cfg = _config()
    check_given(cfg)
    cfg.merge_from_list([key, None])
    with pytest.raises(ConfigError, match=f"{key} is None; expected a value: it is null"):
        check_given(cfg)


def test_early_stopping_needs_an_evaluation():
    with pytest.raises(ConfigError, match="nothing is evaluated"):
        check_training(_config(("EARLY_STOPPING.METRIC", "segm/AP")))
