# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Records of predictions: what is wrong with one is one error, the rest arrives unchanged."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mrcnn_ext.coco.index import GroundTruth
from mrcnn_ext.coco.results import read_records
from mrcnn_ext.errors import DataError
from tests.evaluation.evaluation_cases import encode, make_case, write

MASK = np.zeros((20, 30), dtype=np.uint8)
MASK[4:9, 10:22] = 1
RECORD = {
    "image_id": 1,
    "category_id": 5,
    "score": 0.5,
    "bbox": [1, 2, 3, 4],
    "segmentation": encode(MASK),
    "keypoints": [1, 2, 0.3],
    "mask_score": 0.4,
}
SIZES = {1: (20, 30)}


def test_right_records_arrive_as_they_are(tmp_path):
    dataset, records = make_case(5)
    sizes = GroundTruth(dataset).sizes
    before = copy.deepcopy(records)
    assert read_records(write(tmp_path / "results.json", records), sizes) == records
    assert read_records(records, sizes) == records == before
    assert read_records([], sizes) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": [1]}, r"has the 'image_id' \[1\], expected a number or a string"),
        ({"category_id": {}}, r"has the 'category_id' {}, expected a number or a string"),
        ({"score": None}, "has the 'score' None, expected a finite number"),
        ({"score": float("nan")}, "has the 'score' nan, expected a finite number"),
        ({"score": True}, "has the 'score' True, expected a finite number"),
        ({"mask_score": "1"}, "has the 'mask_score' '1', expected a finite number"),
        ({"bbox": [1, 2, 3]}, r"has the 'bbox' \[1, 2, 3\], expected four finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, r"has the 'bbox' \[1, 2, -3, 4\], expected four finite"),
        ({"bbox": [1, 2, 3, 10**400]}, "expected four finite numbers"),
        ({"keypoints": [1, 2]}, "has 'keypoints' that are not three finite numbers each"),
        ({"keypoints": [1, 2, float("inf")]}, "three finite numbers each"),
        ({"segmentation": 3}, "has a damaged mask: its segmentation is neither polygons nor RLE"),
        ({"segmentation": {"size": [20, 30]}}, "no RLE with 'size' and 'counts'"),
        (
            {"segmentation": {"size": [5, 6], "counts": "PPYo0"}},
            "a mask of 6 x 5 pixels, but the image has 30 x 20",
        ),
        (
            {"segmentation": {"size": [20, 30], "counts": [7]}},
            r"\(they add up to 7, expected 600\)",
        ),
        ({"bbox": None, "segmentation": None, "keypoints": None}, "has neither bbox nor segmenta"),
    ],
)
def test_what_is_wrong_is_named(changes, message, tmp_path):
    records = [RECORD, {**RECORD, **changes}]
    with pytest.raises(DataError, match=rf"the predictions: prediction 1 \(image id .*{message}"):
        read_records(records, SIZES)
    path = write(tmp_path / "results.json", records)
    with pytest.raises(DataError, match=rf"results\.json: prediction 1 \(image id .*{message}"):
        read_records(path, SIZES)


@pytest.mark.parametrize("key", ["image_id", "category_id", "score"])
def test_what_is_missing_is_named(key):
    record = {k: v for k, v in RECORD.items() if k != key}
    with pytest.raises(DataError, match=rf"mine: prediction 0 .* has no '{key}'"):
        read_records([record], SIZES, "mine")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ('[{"image_id": 1,', "is not valid json, or not all of it is there"),
        ("{}", "expected a list of predictions, found a dict"),
        ("[3]", r"prediction 0 \(image id None\) is a int, expected an object"),
    ],
)
def test_damaged_files(content, message, tmp_path):
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=rf"results\.json: {message}"):
        read_records(file, SIZES)


def test_any_form_of_mask_becomes_rle_and_gives_the_box():
    polygons = [[10, 4, 22, 4, 22, 9, 10, 9]]
    runs = {"size": [20, 30], "counts": [204, 5, *[15, 5] * 11, 600 - 204 - 5 - 220]}
    for segmentation in (polygons, runs, encode(MASK), [encode(MASK)]):
        record = {**RECORD, "segmentation": segmentation, "bbox": None}
        (found,) = read_records([record], SIZES)
        assert (mask_util.decode(found["segmentation"]) == MASK).all()
        assert found["bbox"] == [10, 4, 12, 5]
    assert record["bbox"] is None  # what was given is left as it is


def test_nothing_and_null_are_the_same():
    record = {"image_id": 1, "category_id": 5, "score": 1, "bbox": [1, 2, 3, 4]}
    nulls = {"segmentation": None, "keypoints": None, "mask_score": None}
    assert read_records([{**record, **nulls}], SIZES) == [record]
    assert read_records([{**record, "segmentation": []}], SIZES) == [record]
    keypoints = {"image_id": 1, "category_id": 5, "score": 1, "keypoints": [1, 2, 3]}
    assert read_records([keypoints], SIZES) == [keypoints]
    assert json.loads(json.dumps(record)) == record


def test_messages_quote_the_beginning_of_long_values():
    for record in (
        {"image_id": 1, "category_id": 1, "score": "a" * 100000},
        {"image_id": "b" * 9999},
    ):
        with pytest.raises(DataError) as error:
            read_records([record], {1: (9, 9)})
        assert len(str(error.value)) < 200
