# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What does not fit together in a LazyConfig is said before training, in its terms."""

from __future__ import annotations

import json

import pytest
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mrcnn_ext import model_zoo
from mrcnn_ext.errors import ConfigError, DataError

TRAIN, TEST = "mrcnn_ext_test_lazy_train", "mrcnn_ext_test_lazy_test"


@pytest.fixture
def config(tmp_path):
    """A function that writes both data sets and returns the config."""

    def write(classes=("a", "b"), test_classes=("a", "b"), **annotation):
        for name, names in ((TRAIN, classes), (TEST, test_classes)):
            content = {
                "images": [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}],
                "categories": [{"id": i, "name": n} for i, n in enumerate(names, 1)],
                "annotations": [
                    {"id": 5, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3],
                     "iscrowd": 0, "area": 9, "segmentation": [[1, 1, 4, 1, 4, 4]], **annotation}
                ],
            }  # fmt: skip
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
            register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(tmp_path))
        cfg = model_zoo.get_config("Shapes/mask_rcnn_Lite0_FPN.py")
        cfg.dataloader.train.dataset.names = TRAIN
        cfg.dataloader.test.dataset.names = TEST
        cfg.model.roi_heads.num_classes = 2
        return cfg

    yield write
    for name in (TRAIN, TEST):
        if name in DatasetCatalog:
            DatasetCatalog.pop(name)
            MetadataCatalog.pop(name)


def test_what_fits_loads_as_detectron2_has_it(config):
    (record,) = instantiate(config().dataloader.train.dataset)
    assert record["image_id"] == 1
    assert len(record["annotations"]) == 1


@pytest.mark.parametrize("number", [1, 5])
def test_the_number_of_classes_is_compared(config, number):
    cfg = config()
    cfg.model.roi_heads.num_classes = number
    words = rf"model.roi_heads.num_classes is {number}, but '{TRAIN}' .* has 2 classes: a, b"
    with pytest.raises(ConfigError, match=words) as error:
        instantiate(cfg.dataloader.train.dataset)
    assert "MODEL." not in str(error.value)
    del cfg.model  # of another name, perhaps
    assert len(instantiate(cfg.dataloader.train.dataset)) == 1


def test_class_names_of_both_data_sets_are_compared(config):
    cfg = config(test_classes=("b", "a"))
    words = (
        rf"'{TEST}' \(dataloader.test.dataset.names\) has not the classes of '{TRAIN}' .*number 0"
    )
    with pytest.raises(ConfigError, match=words):
        instantiate(cfg.dataloader.train.dataset)


@pytest.mark.parametrize("part", ["train", "test"])
def test_names_that_are_not_registered(config, part):
    cfg = config()
    cfg.dataloader[part].dataset.names = "mrcnn_ext_test_lazy_tran"
    words = (
        rf"dataloader.{part}.dataset.names names '.*tran', which is not .*similar names: {TRAIN}"
    )
    with pytest.raises(ConfigError, match=words):
        instantiate(cfg.dataloader.train.dataset)


def test_an_entry_that_cannot_be_used_is_one_error(config):
    with pytest.raises(DataError, match=r"image 1, annotation 5: bbox None is not x, y"):
        instantiate(config(bbox=None).dataloader.train.dataset)


def test_nothing_to_train_on(config):
    with pytest.raises(DataError, match=r"has no object to train on"):
        instantiate(config(iscrowd=1).dataloader.train.dataset)
