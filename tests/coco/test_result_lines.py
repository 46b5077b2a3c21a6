# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions of one json object a line are read as those of one json."""

from __future__ import annotations

import json

import pytest

from mrcnn_ext.coco.results import read_records
from mrcnn_ext.errors import DataError

RECORDS = [
    {"image_id": 4, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]},
    {"image_id": 4, "category_id": 2, "score": 0.25, "bbox": [1, 2, 3, 5]},
    {"image_id": 9, "category_id": 1, "score": 0.75, "bbox": [1, 2, 3, 6]},
]
SIZES = {4: (20, 30), 9: (20, 30)}


def _file(tmp_path, *lines, end: str = "\n"):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (tmp_path / "a.jsonl").write_text("\n".join(texts) + end)
    return tmp_path / "a.jsonl"


def test_lines_of_images_and_lines_of_predictions(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(RECORDS))
    expected = read_records(tmp_path / "a.json", SIZES)
    images = [
        {"image_id": 4, "file": "a", "results": RECORDS[:2]},
        {"image_id": 5, "file": "b", "results": []},
        {"image_id": 9, "file": "c", "results": RECORDS[2:]},
    ]
    assert read_records(_file(tmp_path, *images), SIZES) == expected
    assert read_records(_file(tmp_path, *images, end=""), SIZES) == expected
    assert read_records(_file(tmp_path, *images, '{"image_id": 9, "res', end=""), SIZES) == expected
    assert read_records(_file(tmp_path, *RECORDS, "", ""), SIZES) == expected
    assert read_records(_file(tmp_path, end=""), SIZES) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"image', RECORDS[0]], r"a.jsonl: line 1 is not valid json"),
        ([RECORDS[0], [1]], r"a.jsonl: line 2 is a list, expected an object"),
        ([{"image_id": 3, "results": 7}], r"a.jsonl: image 3: 'results' is 7, expected a list"),
        ([{"image_id": 4, "results": []}] * 2, "a.jsonl: image 4 has two lines, expected one"),
        (
            [{"image_id": 9, "results": RECORDS[:1]}],
            "a.jsonl: image 9: .* a prediction for image 4",
        ),
        ([{"image_id": 4, "results": [{}]}], r"a.jsonl: prediction 0 .* has no 'image_id'"),
    ],
)
def test_damaged_lines_are_named(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read_records(_file(tmp_path, *lines), SIZES)
