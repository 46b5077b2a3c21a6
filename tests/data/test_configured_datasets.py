# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Data sets that a config describes: what lands in Detectron2's catalogs, when jsons are read."""

from __future__ import annotations

import copy
import json

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator

from mrcnn_ext.data import configured_datasets, register_coco, register_coco_pose, register_datasets
from mrcnn_ext.data.check.__main__ import main as check_main
from mrcnn_ext.data.skeletons import skeletons_from_config
from mrcnn_ext.errors import ConfigError, DataError
from mrcnn_ext.predict import Predictor
from mrcnn_ext.skeletons import SkeletonSet
from tests.helpers import small_cfg

NAME = "mrcnn_ext_test_configured"
KEY = "MRCNN_EXT.DATA.DATASETS"


@pytest.fixture(autouse=True)
def clean_catalogs():
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in [n for n in catalog.list() if n.startswith(NAME)]:
            catalog.pop(name)
    for name in [n for n in configured_datasets._registered if n.startswith(NAME)]:
        del configured_datasets._registered[name]


@pytest.fixture
def coco(tmp_path):
    """A json with boxes and masks; its category ids are neither contiguous nor in order."""
    cv2.imwrite(str(tmp_path / "1.png"), np.full((40, 60, 3), 90, np.uint8))
    common = {"image_id": 7, "iscrowd": 0, "area": 100}
    square = [[5, 5, 15, 5, 15, 15, 5, 15]]
    content = {
        "images": [{"id": 7, "file_name": "1.png", "height": 40, "width": 60}],
        "annotations": [
            {**common, "id": 1, "category_id": 5, "bbox": [5, 5, 10, 10], "segmentation": square},
            {**common, "id": 2, "category_id": 2, "bbox": [5, 5, 10, 10], "segmentation": square},
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    return file, content


def _cfg(*entries, train=(NAME,), key="DATA"):
    cfg = small_cfg()
    cfg.MRCNN_EXT[key].DATASETS = [list(map(str, entry)) for entry in entries]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    return cfg


def test_catalogs_have_what_detectron2_itself_would_put_there(coco, tmp_path):
    file, _ = coco
    register_datasets(_cfg((NAME, file, tmp_path)))
    metadata = MetadataCatalog.get(NAME)
    before = metadata.as_dict()
    records = DatasetCatalog.get(NAME)
    assert records == load_coco_json(str(file), str(tmp_path), NAME + "_stock")
    stock = MetadataCatalog.get(NAME + "_stock")
    assert metadata.thing_classes == stock.thing_classes == ["dog", "cat"]
    ids = metadata.thing_dataset_id_to_contiguous_id
    assert ids == stock.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1}
    assert (metadata.evaluator_type, metadata.json_file) == ("coco", str(file))
    assert metadata.image_root == str(tmp_path)
    assert metadata.as_dict() == before  # all of it was known before the data set was loaded
    assert COCOEvaluator(NAME, tasks=("bbox",))._coco_api.getCatIds() == [5, 2]


def test_calling_again_changes_nothing_and_another_file_replaces(coco, tmp_path):
    file, content = coco
    cfg = _cfg((NAME, file, tmp_path))
    register_datasets(cfg)
    metadata = MetadataCatalog.get(NAME).set(note="kept")
    register_datasets(cfg)
    assert MetadataCatalog.get(NAME) is metadata
    content["categories"][0]["name"] = "bird"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    register_datasets(_cfg((NAME, other, tmp_path)))
    assert MetadataCatalog.get(NAME).thing_classes == ["dog", "bird"]


def test_metadata_that_a_tool_holds_already_are_filled(coco, tmp_path):
    """Detectron2's demo.py takes the metadata before it builds the model."""
    held = MetadataCatalog.get(NAME)
    register_datasets(_cfg((NAME, coco[0], tmp_path)))
    assert held.thing_classes == ["dog", "cat"]


def test_jsons_of_unused_data_sets_are_not_read(coco, tmp_path):
    file, _ = coco
    missing = (NAME + "_absent", tmp_path / "absent.json", tmp_path)
    register_datasets(_cfg((NAME, file, tmp_path), missing, train=()))
    assert MetadataCatalog.get(NAME).get("thing_classes") is None
    with pytest.raises(DataError, match=r"absent\.json"):
        DatasetCatalog.get(missing[0])
    # Loading it, or a config that uses it, reads it.
    assert len(DatasetCatalog.get(NAME)) == 1
    assert MetadataCatalog.get(NAME).thing_classes == ["dog", "cat"]
    with pytest.raises(ConfigError, match=rf"{KEY}\[0\]: .*absent\.json"):
        register_datasets(_cfg(missing, train=(missing[0],)))


def test_a_used_data_set_is_read_after_another_config_did_not_use_it(coco, tmp_path):
    entry = (NAME, coco[0], tmp_path)
    register_datasets(_cfg(entry, train=()))
    register_datasets(_cfg(entry))
    assert MetadataCatalog.get(NAME).thing_classes == ["dog", "cat"]


def test_keypoints_of_a_plain_json_are_those_of_the_pose_key(coco, tmp_path):
    file, content = coco
    content["categories"][0]["keypoints"] = ["left_ear", "right_ear", "tail"]
    content["annotations"][0].update(keypoints=[6, 6, 2, 9, 6, 2, 0, 0, 0], num_keypoints=2)
    content["annotations"][1].update(keypoints=[0] * 51, num_keypoints=0)  # of no category's number
    file.write_text(json.dumps(content))
    cfg = _cfg((NAME, file, tmp_path))
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 3
    found = skeletons_from_config(cfg)
    assert found.class_skeletons == (None, 0)
    records, metadata = DatasetCatalog.get(NAME), MetadataCatalog.get(NAME).as_dict()
    register_coco_pose(NAME + "_pose", file, tmp_path)
    assert records == DatasetCatalog.get(NAME + "_pose")
    pose = {**MetadataCatalog.get(NAME + "_pose").as_dict(), "name": NAME}
    assert metadata == pose
    assert metadata["keypoint_flip_map"] == [("left_ear", "right_ear")]
    assert not np.any(records[0]["annotations"][1]["keypoints"][2::3])
    # Lazily, too
    register_coco(NAME + "_lazy", file, tmp_path, read_now=False)
    assert SkeletonSet.from_metadata(MetadataCatalog.get(NAME + "_lazy")) is None
    assert DatasetCatalog.get(NAME + "_lazy") == records
    assert SkeletonSet.from_metadata(MetadataCatalog.get(NAME + "_lazy")) == found


@pytest.mark.parametrize("key", ["DATA", "POSE"])
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([[NAME, "x.json"]], r"DATASETS\[0\] is \['.*'x\.json'\]; expected \[name, json file"),
        ([NAME], r"DATASETS\[0\] is 'mrcnn_ext_test_configured'; expected"),
        ([[NAME, "a.json", 3]], r"DATASETS\[0\] is .*3\]; expected"),
        ([["coco_2017_val", "a.json", "b"]], r"\[0\]: there is a data set 'coco_2017_val' already"),
        ([[NAME, "no.json", "images"]], r"DATASETS\[0\]: no\.json"),
    ],
)
def test_entries_that_are_none(key, entries, message):
    cfg = _cfg(key=key)
    cfg.MRCNN_EXT[key].DATASETS = entries
    with pytest.raises(ConfigError, match=rf"MRCNN_EXT\.{key}\..*{message}|{message}") as error:
        register_datasets(cfg)
    assert str(error.value).startswith(f"MRCNN_EXT.{key}.DATASETS[0]")


def test_one_name_for_two_files(coco, tmp_path):
    cfg = _cfg((NAME, coco[0], tmp_path), (NAME, "other.json", tmp_path))
    with pytest.raises(ConfigError, match=r"DATA\.DATASETS\[1\]: .* is the name of .*\[0\], too"):
        register_datasets(cfg)


@pytest.mark.parametrize("change", [{"id": None}, {"name": None}, {"keypoints": "nose"}])
def test_categories_that_are_none(coco, tmp_path, change):
    file, content = coco
    content = copy.deepcopy(content)
    for key, value in change.items():
        content["categories"][0].pop(key, None)
        if value is not None:
            content["categories"][0][key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"{KEY}\[0\]: .*truth\.json: .*category"):
        register_datasets(_cfg((NAME, file, tmp_path)))


def test_the_model_is_checked_against_the_classes(coco, tmp_path):
    from detectron2.modeling import build_model

    cfg = _cfg((NAME, coco[0], tmp_path))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    with pytest.raises(ConfigError, match=r"NUM_CLASSES is 3, but '.*' .* has 2 classes: dog, cat"):
        build_model(cfg)


def test_shapes_are_registered_as_the_config_wants_them():
    cfg = small_cfg()
    cfg.MRCNN_EXT.SHAPES.NUM_VAL, cfg.MRCNN_EXT.SHAPES.IMAGE_SIZE = 2, 64
    try:
        register_datasets(cfg)
        assert len(DatasetCatalog.get("mrcnn_ext_shapes_val")) == 2
    finally:
        register_datasets(small_cfg())


def test_check_command_registers_what_the_config_lists(coco, tmp_path, capsys):
    cfg = _cfg((NAME, coco[0], tmp_path))
    cfg.INPUT.MASK_FORMAT = "polygon"
    (tmp_path / "config.yaml").write_text(cfg.dump())
    out = tmp_path / "out.json"
    assert check_main(["--config-file", str(tmp_path / "config.yaml"), "--json", str(out)]) == 0
    (found,) = json.loads(out.read_text())["datasets"]
    assert (found["name"], found["counts"]["annotations"]) == (NAME, 2)


def test_check_command_reads_a_set_that_the_config_only_lists(coco, tmp_path):
    file, content = coco
    content["categories"][0]["keypoints"] = ["left_ear", "right_ear", "tail"]
    content["annotations"][0].update(keypoints=[6, 6, 2, 9, 6, 2, 0, 0, 0], num_keypoints=2)
    file.write_text(json.dumps(content))
    cfg = _cfg((NAME, file, tmp_path), train=())
    cfg.INPUT.MASK_FORMAT = "polygon"
    (tmp_path / "config.yaml").write_text(cfg.dump())
    arguments = [NAME, "--config-file", str(tmp_path / "config.yaml")]
    assert check_main(arguments) == 0  # one object of an image without keypoints is no fault then


def test_prediction_needs_no_data_set(coco, tmp_path, monkeypatch):
    """With the json, class names are known; without it, the model still predicts."""
    import torch

    cfg = _cfg((NAME, coco[0], tmp_path), train=())
    cfg.DATASETS.TEST = (NAME,)
    monkeypatch.setattr("mrcnn_ext.predict.predictor.build_model", lambda cfg: torch.nn.Module())
    monkeypatch.setattr("mrcnn_ext.predict.predictor.load_weights", lambda *_, **__: None)
    assert Predictor(cfg, weights=coco[0], device="cpu").metadata.thing_classes == ["dog", "cat"]
    cfg.MRCNN_EXT.DATA.DATASETS = [[NAME + "_absent", "no.json", "images"]]
    cfg.DATASETS.TEST = (NAME + "_absent",)
    assert isinstance(cfg, CfgNode)
    monkeypatch.undo()
    monkeypatch.setattr("mrcnn_ext.predict.predictor.load_weights", lambda *_, **__: None)
    predictor = Predictor(
        cfg, weights=coco[0], device="cpu"
    )  # the model itself is built without the json, too
    assert predictor.metadata.get("thing_classes") is None
