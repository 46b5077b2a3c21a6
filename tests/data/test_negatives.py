# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A share of images without objects among those of a training."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.build import get_detection_dataset_dicts
from hypothesis import given
from hypothesis import strategies as st

from mrcnn_ext.config.check_data import check_data, set_data_keys
from mrcnn_ext.data.lazy import training_dicts
from mrcnn_ext.data.negatives import keep_negatives
from mrcnn_ext.data.train_loader import train_loader_from_config, training_data
from mrcnn_ext.errors import ConfigError, DataError
from tests.data.augmentation_cases import record
from tests.helpers import small_cfg

OBJECT, CROWD = {"iscrowd": 0, "keypoints": [1, 1, 2]}, {"iscrowd": 1, "keypoints": [0, 0, 0]}


def _records(kinds: str) -> list[dict]:
    """o: with an object, c: with a crowd only, n: with nothing."""
    made = {"o": [OBJECT], "c": [CROWD], "n": []}
    return [{"image_id": i, "annotations": made[kind]} for i, kind in enumerate(kinds)]


@given(st.text("ocn", max_size=40).map(lambda kinds: f"o{kinds}"), st.floats(0, 0.95))
def test_as_many_as_asked_for_and_as_there_are(kinds, share):
    kept = keep_negatives(_records(kinds), share)
    objects = [r for r in kept if r["annotations"]]
    without = [r for r in kept if not r["annotations"]]
    assert [r["image_id"] for r in objects] == [i for i, k in enumerate(kinds) if k == "o"]
    assert len(without) <= kinds.count("n")
    assert len(without) <= share * len(kept) + 1e-6
    if len(without) < kinds.count("n"):  # one more would be too many
        assert len(without) + 1 > share * (len(kept) + 1) - 1e-6
    assert kept == keep_negatives(_records(kinds), share)
    numbers = [r["image_id"] for r in without]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("kinds", ["", "n", "cnn"])
def test_nothing_to_learn_is_an_error(kinds):
    with pytest.raises(DataError, match=r"NEGATIVES: the training sets have no image with objects"):
        keep_negatives(_records(kinds), 0.5)


def test_few_keypoints_drop_images_with_objects_only():
    with pytest.raises(DataError, match="no image with objects and 2 keypoints"):
        keep_negatives(_records("oonn"), 0.5, min_keypoints=2)
    assert [r["image_id"] for r in keep_negatives(_records("oonn"), 0.5, min_keypoints=1)] == [
        *(0, 1, 2, 3)
    ]


@pytest.fixture
def cfg(tmp_path):
    records = [record(tmp_path, "polygon", seed) for seed in range(3)]
    records += [{**record(tmp_path, "", seed), "annotations": []} for seed in range(3, 7)]
    name = f"mrcnn_ext_test_negatives_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records)
    cfg = small_cfg()
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = (name,), 0, 1
    cfg.MODEL.MASK_ON = True
    yield cfg
    DatasetCatalog.remove(name)


def test_the_loader_follows_the_key(cfg):
    assert len(training_data(cfg)[0]) == 3
    cfg.MRCNN_EXT.DATA.NEGATIVES = 0.4
    assert set_data_keys(cfg) == ["MRCNN_EXT.DATA.NEGATIVES"]
    check_data(cfg)
    assert len(training_data(cfg)[0]) == 5
    cfg.MRCNN_EXT.DATA.NEGATIVES = 0.9
    assert len(training_data(cfg)[0]) == 7
    assert len(get_detection_dataset_dicts(cfg.DATASETS.TRAIN)) == 3
    found = set()
    for (sample,) in train_loader_from_config(cfg):
        found.add(len(sample["instances"]))
        assert torch.isfinite(sample["instances"].gt_boxes.tensor).all()
        if found == {0, 2}:
            break


def test_a_lazy_config_says_it_where_the_data_set_is(cfg):
    (name,) = cfg.DATASETS.TRAIN
    assert len(training_dicts(name)) == 3
    assert len(training_dicts(name, negatives=0.4, min_keypoints=1)) == 5
    with pytest.raises(ConfigError, match=r"negatives is 1.5; expected a share"):
        training_dicts(name, negatives=1.5)


@pytest.mark.parametrize("value", [1.0, -0.1, "much", True, None, float("nan")])
def test_the_value_is_checked(cfg, value):
    cfg.MRCNN_EXT.DATA.NEGATIVES = value
    with pytest.raises(ConfigError, match=r"NEGATIVES is .*; expected a share of the images"):
        check_data(cfg)
