# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A data set's files, by its registered name or by its json."""

from __future__ import annotations

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mrcnn_ext.data.registered import CocoFiles, find_coco, registered_coco
from mrcnn_ext.errors import DataError

NAME = "mrcnn_ext_test_registered"


@pytest.fixture
def names():
    """Names to register, which are forgotten afterwards."""
    yield NAME
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog.list():
            catalog.remove(NAME)


def test_a_file(tmp_path):
    file = tmp_path / "truth.json"
    file.write_text("{}")
    assert find_coco(file) == find_coco(str(file)) == CocoFiles(str(file), str(file))
    with pytest.raises(DataError, match=r"no data set '.*truth\.json' is registered; import"):
        registered_coco(str(file))


@pytest.mark.parametrize("image_root", ["images", ""])
def test_a_registered_name(names, image_root):
    register_coco_instances(names, {}, "truth.json", image_root)
    expected = CocoFiles(names, "truth.json", image_root, MetadataCatalog.get(names))
    assert find_coco(names) == registered_coco(names) == expected


def test_a_file_of_the_same_name_does_not_hide_a_registered_name(names, tmp_path, monkeypatch):
    register_coco_instances(names, {}, "truth.json", "images")
    (tmp_path / names).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert registered_coco(names).json_file == "truth.json"
    assert find_coco(names) == CocoFiles(names, names)


def test_a_set_that_says_its_json_when_it_is_loaded(names):
    def load():
        MetadataCatalog.get(names).set(json_file="late.json", image_root="images")
        return []

    DatasetCatalog.register(names, load)
    assert find_coco(names).json_file == "late.json"


def test_what_has_no_json_is_refused(names):
    with pytest.raises(DataError, match=f"no data set '{names}' is registered, and it is no file"):
        find_coco(names)
    with pytest.raises(DataError, match=r"similar names: coco_2017_val"):
        find_coco("coco_2017_vall")
    DatasetCatalog.register(names, lambda: [])
    with pytest.raises(DataError, match=r"is not in COCO's format \(json_file in its metadata\)"):
        find_coco(names)
    DatasetCatalog.remove(names)
    DatasetCatalog.register(names, lambda: 1 / 0)
    with pytest.raises(DataError, match=f"'{names}' cannot be loaded: division by zero"):
        find_coco(names)


def test_lvis_has_a_json_and_no_file_names():
    assert find_coco("lvis_v1_val").json_file.endswith("lvis_v1_val.json")
    with pytest.raises(DataError, match="not in COCO's format"):
        registered_coco("lvis_v1_val")
