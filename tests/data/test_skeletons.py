# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Data sets whose categories have keypoints of their own: registration, training, config, check."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices

from mrcnn_ext.data import register_coco_pose, register_datasets
from mrcnn_ext.data.check.dataset import check_coco
from mrcnn_ext.data.skeletons import class_keypoints_from_config, skeletons_from_config
from mrcnn_ext.errors import ConfigError, DataError
from tests.helpers import small_cfg

NAME = "mrcnn_ext_test_skeletons"


@pytest.fixture
def coco(tmp_path):
    """A json of two categories with different keypoints, and one without."""
    import cv2

    cv2.imwrite(str(tmp_path / "1.png"), np.full((40, 60, 3), 90, np.uint8))
    common = {"image_id": 1, "iscrowd": 0, "area": 100}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 40, "width": 60}],
        "annotations": [
            {**common, "id": 1, "category_id": 2, "bbox": [5, 5, 20, 20], "num_keypoints": 2,
             "keypoints": [10, 10, 2, 7, 20, 1, 0, 0, 0]},
            {**common, "id": 2, "category_id": 4, "bbox": [30, 5, 10, 10], "num_keypoints": 0},
            {**common, "id": 3, "category_id": 6, "bbox": [30, 20, 20, 15], "num_keypoints": 2,
             "keypoints": [31, 21, 2, 48, 30, 2]},
        ],
        "categories": [
            {"id": 2, "name": "crane", "keypoints": ["base", "left_claw", "right_claw"]},
            {"id": 4, "name": "ball"},
            {"id": 6, "name": "bird", "keypoints": ["beak", "tail"]},
        ],
    }  # fmt: skip
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    yield file, content
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog.list():
            catalog.pop(NAME)


def test_a_registered_json_trains_with_detectron2s_mapper_and_flip(coco):
    file, _ = coco
    register_coco_pose(NAME, file, file.parent)
    (record,) = DatasetCatalog.get(NAME)
    flat = [np.reshape(a["keypoints"], (-1, 3)) for a in record["annotations"]]
    np.testing.assert_allclose(flat[0][:2], [[10.5, 10.5, 2], [7.5, 20.5, 1]])
    assert not flat[1][:, 2].any()
    np.testing.assert_allclose(flat[2][3:], [[31.5, 21.5, 2], [48.5, 30.5, 2]])
    assert not flat[2][:3, 2].any()
    import detectron2.data.transforms as T

    mapper = DatasetMapper(
        True,
        augmentations=[T.RandomFlip(prob=1.0)],
        image_format="BGR",
        use_keypoint=True,
        keypoint_hflip_indices=create_keypoint_hflip_indices([NAME]),
    )
    points = mapper(record)["instances"].gt_keypoints.tensor
    torch.testing.assert_close(points[0, 2], torch.tensor([52.5, 20.5, 1]))  # the left is the right
    assert points[0, 1, 2] == 0
    torch.testing.assert_close(points[2, 3], torch.tensor([28.5, 21.5, 2]))


def test_configs_name_data_sets_and_skeletons(coco, tmp_path):
    file, _ = coco
    cfg = small_cfg()
    cfg.MRCNN_EXT.POSE.DATASETS = [[NAME, str(file), str(tmp_path)]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
    keypoints = class_keypoints_from_config(cfg)
    assert keypoints.int().tolist() == [[1, 1, 1, 0, 0], [0] * 5, [0, 0, 0, 1, 1]]
    found = skeletons_from_config(cfg)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    with pytest.raises(
        ConfigError, match=r"NUM_KEYPOINTS is 17.*5 keypoints \(3 of 'crane' \+ 2 of"
    ):
        class_keypoints_from_config(cfg)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    with pytest.raises(ConfigError, match=r"NUM_CLASSES is 2.*3 classes"):
        class_keypoints_from_config(cfg)
    # Elsewhere, with a file of the skeletons alone
    found.save(tmp_path / "skeletons.json")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MRCNN_EXT.POSE.SKELETONS = str(tmp_path / "skeletons.json")
    cfg.MRCNN_EXT.POSE.DATASETS = [["mrcnn_ext_not_there", "no.json", "images"]]
    assert torch.equal(class_keypoints_from_config(cfg), keypoints)
    cfg.MRCNN_EXT.POSE.SKELETONS = "no.json"
    with pytest.raises(ConfigError, match=r"MRCNN_EXT\.POSE\.SKELETONS: no\.json"):
        class_keypoints_from_config(cfg)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([NAME, "x.json"], r"MRCNN_EXT\.POSE\.DATASETS\[0\] is"),
        ([NAME, "no.json", "images"], r"MRCNN_EXT\.POSE\.DATASETS\[0\]: no\.json"),
        (["coco_2017_val", "no.json", "images"], "a data set 'coco_2017_val' already"),
    ],
)
def test_data_sets_that_cannot_be(entry, message):
    cfg = small_cfg()
    cfg.MRCNN_EXT.POSE.DATASETS = [entry]
    with pytest.raises(ConfigError, match=message):
        register_datasets(cfg)


def test_keypoints_that_do_not_fit_their_category(coco):
    file, content = coco
    content["annotations"][2]["keypoints"] += [1, 1, 2]
    file.write_text(json.dumps(content))
    register_coco_pose(NAME, file, file.parent)
    with pytest.raises(DataError, match=r"1\.png.*class 2 \('bird'\) with 9 numbers.*2 keypoints"):
        DatasetCatalog.get(NAME)
    content["categories"] = [{"id": c["id"], "name": c["name"]} for c in content["categories"]]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="no category has 'keypoints'"):
        register_coco_pose(NAME, file, file.parent)


def test_the_check_of_data_knows_several_skeletons(coco):
    file, content = coco
    register_coco_pose(NAME, file, file.parent)
    metadata = MetadataCatalog.get(NAME)
    assert check_coco(content, file.parent, metadata=metadata) == []
    # Detectron2's own loader could not
    kinds = {problem.kind for problem in check_coco(content, file.parent)}
    assert kinds == {"keypoints-missing", "keypoints-mixed"}
    content["annotations"][0]["keypoints"] += [1, 1, 2]
    content["categories"][2]["sigmas"] = [0.1]
    content["categories"][0]["flip_map"] = [["base", "top"]]
    problems = check_coco(content, file.parent, metadata=metadata)
    texts = " ".join(problem.message for problem in problems)
    assert "instead of 3 x 3 of its category" in texts
    assert "1 sigmas for 2 keypoints" in texts
    assert "no keypoint has the name 'top'" in texts
