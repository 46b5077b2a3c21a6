# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ground truth and detections by number: order, ids, sizes, what is missing."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mrcnn_ext.coco.index import Detections, GroundTruth, load_ground_truth
from mrcnn_ext.errors import DataError
from tests.evaluation.evaluation_cases import coco_of, make_case, write


def test_order_and_numbers_are_those_of_pycocotools():
    dataset, _ = make_case(3)
    dataset["annotations"][0]["id"] = 0
    before = copy.deepcopy(dataset)
    coco = coco_of(dataset)
    for content in (dataset, coco):
        truth = GroundTruth(content, source="folder/truth.json")
        assert truth.image_ids == sorted(coco.getImgIds())
        assert truth.category_ids == sorted(coco.getCatIds())
        assert truth.class_names == [coco.cats[c]["name"] for c in truth.category_ids]
        expected = [a for i in truth.image_ids for a in coco.imgToAnns[i]]
        assert [o["annotation"] for o in truth.objects] == expected
        assert [o["id"] for o in truth.objects] == list(range(1, len(expected) + 1))
        for entry in truth.objects:
            annotation = entry["annotation"]
            assert truth.image_ids[entry["image_id"] - 1] == annotation["image_id"]
            assert truth.category_ids[entry["category_id"] - 1] == annotation["category_id"]
            pair = entry["image_id"], entry["category_id"]
            assert truth.by_pair[pair][entry["row"]] is entry
            assert (mask_util.decode(truth.rle(entry)) == coco.annToMask(annotation)).all()
        assert truth.num_instances == sum(not a["iscrowd"] for a in expected)
        assert truth.sizes == {i: (v["height"], v["width"]) for i, v in coco.imgs.items()}
        assert (truth.name, truth.has_masks, truth.has_keypoints) == ("truth.json", True, True)
    assert dataset == before


def test_chosen_images():
    dataset, records = make_case(3)
    ids = [image["id"] for image in dataset["images"]][:2]
    truth = GroundTruth(dataset, ids)
    assert truth.image_ids == sorted(ids)
    assert {o["annotation"]["image_id"] for o in truth.objects} <= set(ids)
    found = Detections(records, truth)
    assert len(found.entries) == sum(r["image_id"] in ids for r in records) > 0
    with pytest.raises(DataError, match="there is no image with id 4711"):
        GroundTruth(dataset, [4711])


def test_what_a_file_leaves_out_comes_from_the_mask_or_the_box(tmp_path):
    dataset, _ = make_case(4)
    whole = GroundTruth(dataset)
    less = copy.deepcopy(dataset)
    for annotation in less["annotations"]:
        for key in ("bbox", "area", "iscrowd"):
            del annotation[key]
    found = load_ground_truth(write(tmp_path / "less.json", less))
    for entry, expected in zip(found.objects, whole.objects):
        assert entry["bbox"] == expected["bbox"]
        assert entry["area"] == expected["area"]
        assert entry["iscrowd"] == 0
    for annotation in less["annotations"]:
        annotation.update(bbox=[1, 2, 3, 5])
        del annotation["segmentation"], annotation["keypoints"]
    boxes = load_ground_truth(write(tmp_path / "boxes.json", less))
    assert {entry["area"] for entry in boxes.objects} == {15}
    assert (boxes.has_masks, boxes.has_keypoints) == (False, False)
    del less["annotations"][0]["bbox"]
    with pytest.raises(DataError, match=r"image \d+, annotation 1 has neither bbox nor segment"):
        GroundTruth(less)


def test_annotations_of_unknown_images_and_categories_have_no_part():
    dataset, _ = make_case(3)
    before = len(GroundTruth(dataset).objects)
    dataset["annotations"][0]["category_id"] = 4711
    dataset["annotations"][1]["image_id"] = 4711
    assert len(GroundTruth(dataset).objects) == before - 2


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "has no 'segmentation', which evaluating masks needs"),
        ({"size": [4, 4], "counts": "0"}, "a mask of 4 x 4 pixels, but the image has"),
        (3, "its segmentation is neither polygons nor RLE"),
    ],
)
def test_a_mask_that_cannot_be_used_names_its_annotation(segmentation, message):
    dataset, _ = make_case(3)
    annotation = dataset["annotations"][2]
    annotation["segmentation"] = segmentation
    truth = GroundTruth(dataset, source="truth.json")
    (entry,) = [o for o in truth.objects if o["annotation"] is annotation]
    where = f"truth.json: image {annotation['image_id']}, annotation 3"
    with pytest.raises(DataError, match=rf"{where}:? {message}"):
        truth.rle(entry)


def test_image_files(tmp_path):
    dataset, _ = make_case(3)
    truth = GroundTruth(dataset, image_root=tmp_path, name="mine")
    assert truth.name == "mine"
    for number, image_id in enumerate(truth.image_ids, 1):
        assert truth.image_file(number) == tmp_path / f"{image_id}.jpg"
    assert GroundTruth(dataset).image_file(1) is None


def test_detections():
    dataset, records = make_case(6)
    truth = GroundTruth(dataset)
    found = Detections(records, truth, "folder/results.json")
    assert [entry["record"] for entry in found.entries] == records
    assert [entry["id"] for entry in found.entries] == list(range(1, len(records) + 1))
    assert found.name == "results.json"
    assert found.mask_areas() == [mask_util.area(r["segmentation"]) for r in records]
    per_image = Counter(r["image_id"] for r in records)
    per_pair = Counter((r["image_id"], r["category_id"]) for r in records)
    assert found.most_per_image() == max(per_image.values())
    assert found.most_per_pair() == max(per_pair.values())
    assert (found.has_masks, found.has_keypoints) == (True, True)
    for entry in found.entries:
        assert found.by_pair[entry["image_id"], entry["category_id"]][entry["row"]] is entry
    nothing = Detections([], truth)
    assert (nothing.most_per_image(), nothing.most_per_pair(), nothing.mask_areas()) == (0, 0, [])
    assert (nothing.has_masks, nothing.has_keypoints) == (False, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 4711}, r"results: a prediction is for image id 4711, which is not in truth"),
        ({"category_id": 1}, r"has category 1; truth has the categories 2, 5, 8, 11"),
    ],
)
def test_detections_of_another_data_set(change, message):
    dataset, records = make_case(6)
    with pytest.raises(DataError, match=message):
        Detections([{**records[0], **change}], GroundTruth(dataset, source="truth"), "results")


def test_many_masks_are_counted_as_one_is():
    truth = GroundTruth(
        {
            "images": [{"id": 1, "height": 9, "width": 9}],
            "categories": [{"id": 1}],
            "annotations": [],
        }
    )
    mask = mask_util.encode(np.asfortranarray(np.eye(9, dtype=np.uint8)))
    record = {"image_id": 1, "category_id": 1, "score": 1, "segmentation": mask}
    assert Detections([record] * 300, truth).mask_areas() == [9] * 300
    assert truth.class_names == ["1"]


def test_rles_taken_as_they_are_need_counts():
    dataset, _ = make_case(3)
    annotation = dataset["annotations"][0]
    height, width = GroundTruth(dataset).sizes[annotation["image_id"]]
    annotation["segmentation"] = {"size": [height, width]}
    truth = GroundTruth(dataset, source="truth.json", check_rles=False)
    (entry,) = (o for o in truth.objects if o["annotation"] is annotation)
    with pytest.raises(
        DataError, match=rf"truth.json: .*annotation {annotation['id']}: .*'counts'"
    ):
        truth.rle(entry)


def test_keypoints_of_a_category_are_as_many():
    points = [[1, 1, 2] * 3, [], [1, 1, 2] * 3]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "keypoints": values}
        for i, values in enumerate(points, 1)
    ]
    images = [{"id": 1, "height": 9, "width": 9}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    assert GroundTruth(content).keypoint_counts() == {1: 3}
    annotations[2]["keypoints"] = [1, 1, 2] * 2
    words = "t.json: image 1, annotation 3 has 2 keypoints, but others of its category have 3"
    with pytest.raises(DataError, match=words):
        GroundTruth(content, source="t.json").keypoint_counts()
