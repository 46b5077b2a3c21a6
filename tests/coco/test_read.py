# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Annotation files: what cannot be used is one error that names file and entry."""

from __future__ import annotations

import copy
import json
import os

import pytest

from mrcnn_ext.coco.index import load_ground_truth
from mrcnn_ext.coco.read import check_entries, read_categories, read_coco, read_json
from mrcnn_ext.errors import DataError

CONTENT = {
    "images": [{"id": 1, "height": 20, "width": 30}, {"id": 2, "height": 20, "width": 30}],
    "categories": [{"id": 5, "name": "ring"}, {"id": 3, "name": "größe"}],
    "annotations": [{"id": 7, "image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]}],
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is not valid json, or not all of it is there"),
        (b'{"images": [', "is not valid json, or not all of it is there"),
        (b"\xff\xfe\x00", "is not valid json"),
        (b"[" * 100_000, "is not valid json"),
    ],
)
def test_what_is_no_json(text, message, tmp_path):
    file = tmp_path / "truth.json"
    if text is not None:
        file.write_bytes(text)
    for function in (read_json, read_coco, load_ground_truth):
        with pytest.raises(DataError, match=rf"truth\.json: {message}"):
            function(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", [str, os.fspath, lambda path: path])
def test_any_path_and_encoding(kind, encoding, tmp_path):
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(CONTENT, ensure_ascii=False), encoding=encoding)
    assert read_coco(kind(file)) == CONTENT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"it holds a list \(detection results have this form\), expected an object with"),
        (3, "it holds a int, expected an object with the lists images, annotations, categories"),
        ({"images": [], "annotations": []}, "'categories' is missing"),
        ({"images": {}, "annotations": [], "categories": []}, "'images' is not a list"),
    ],
)
def test_what_is_no_coco_data_set(content, message, tmp_path):
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"truth\.json: is no COCO data set: {message}"):
        read_coco(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].clear(), "there are no images"),
        (lambda c: c["images"].append(3), r"images\[2\] has no id"),
        (lambda c: c["images"][1].update(id=[2]), r"images\[1\] has no id"),
        (lambda c: c["images"].append(c["images"][0]), "two images have the id 1"),
        (lambda c: c["images"][1].update(id="b"), "some image ids are numbers and some are not"),
        (lambda c: c["images"][0].pop("width"), "image 1 has no height and width"),
        (lambda c: c["images"][0].update(width=True), "image 1 has no height and width"),
        (lambda c: c["images"][0].update(height=0), "image 1 has no height and width"),
        (lambda c: c["categories"].clear(), "expected categories with an id each"),
        (lambda c: c["categories"][0].pop("id"), "expected categories with an id each"),
        (lambda c: c["categories"][0].update(id=3), "two categories have the same id"),
        (lambda c: c["annotations"].append("x"), "annotation 'x': its image_id is not among"),
        (lambda c: c["annotations"][0].update(image_id=50), "annotation 7: its image_id is not"),
        (lambda c: c["annotations"][0].update(image_id=[1]), "annotation 7: its image_id is not"),
        (
            lambda c: c["annotations"][0].update(category_id=50),
            "image 1, annotation 7: its cat",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1]),
            r"image 1, annotation 7: bbox \[1\] is",
        ),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4]), "image 1, annotation 7: bbox"),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 10**400]),
            "image 1, annotation 7: bbox",
        ),
        (
            lambda c: c["annotations"][0].pop("bbox"),
            "image 1, annotation 7 has neither bbox",
        ),
        (
            lambda c: c["images"][1].update(file_name="b.jpg", width="30"),
            "image 2 has no height and width: 'b.jpg' has 20 and '30', expected two positive",
        ),
        (
            lambda c: c["categories"][1].pop("id"),
            r"expected .* id each; categories\[1\] is {",
        ),
        (lambda c: c["categories"][1].update(id="3"), "some category ids are numbers and some"),
        *[
            (lambda c, v=v: c["annotations"][0].update(v), f"image 1, annotation 7: {message}")
            for v, message in [
                ({"bbox": None}, "bbox None is not x, y"),
                ({"bbox": ["1", "2", "3", "4"]}, r"bbox \['1', '2', '3', '4'\] is not x, y"),
                ({"bbox": [1, 2, float("nan"), 4]}, r"bbox \[1, 2, nan, 4\] is not x, y"),
                ({"area": None}, "area None is not a number of pixels"),
                ({"area": "12"}, "area '12' is not a number"),
                ({"area": -1}, "area -1 is not a number"),
                ({"area": float("inf")}, "area inf is not a number"),
                ({"iscrowd": "0"}, "iscrowd is '0', neither 0 nor 1"),
                ({"keypoints": [1, 2]}, r"keypoints \[1, 2\] are not three finite"),
                ({"keypoints": [1, float("nan"), 2]}, r"keypoints \[1, nan, 2\] are not three"),
                ({"segmentation": [[float("nan")] * 6]}, r"the polygon \[nan, .* NaN or beyond"),
                (
                    {"segmentation": [[1, 1, 1e9, 1, 1, 5]]},
                    "the polygon .* has numbers that are NaN or beyond 1e",
                ),
                ({"segmentation": [[1, 1, 10**400, 1, 1, 5]]}, ".*NaN or beyond 1e"),
                ({"keypoints": [1, 2, "2"]}, r"keypoints \[1, 2, '2'\] are not"),
                ({"segmentation": "mask.png"}, "segmentation is 'mask.png', neither a list"),
                ({"segmentation": [[1, 2, 3, 4]]}, r"no polygon has three points .* are 4\.$"),
                ({"segmentation": [[]]}, "no polygon has three points"),
                ({"segmentation": [1, 2, 3, 4, 5, 6]}, "the polygon 1 is not a flat list"),
                ({"segmentation": [[[1, 2], [3, 4], [5, 6]]]}, r"the polygon \[\[1, 2\]"),
                ({"segmentation": [["1", 2, 3, 4, 5, 6]]}, r"the polygon \['1', 2"),
                ({"segmentation": {"counts": []}}, "the RLE's size .* is None"),
                (
                    {"segmentation": {"size": [30, 20], "counts": []}},
                    r"the RLE's size .* is \[30, 20\], the",
                ),
                ({"segmentation": {"size": [20, 30]}}, "the RLE's counts are None, no list"),
                ({"segmentation": [{"size": [20, 30]}]}, "the RLE's counts are None"),
                ({"segmentation": [{"size": [20, 30], "counts": []}, [1]]}, "segmentation mixes"),
            ]
        ],
    ],
)
def test_unusable_entries(change, message, tmp_path):
    content = copy.deepcopy(CONTENT)
    change(content)
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"truth\.json: {message}"):
        load_ground_truth(file)


def test_null_crowds_unannotated_sets_and_short_polygons_beside_others_are_usable(tmp_path):
    content = copy.deepcopy(CONTENT)
    triangle, speck = [1, 2, 8, 2, 8, 9], [1, 2, 3, 4]
    content["annotations"][0].update(iscrowd=None, segmentation=[speck, triangle], area=3)
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    (entry,) = load_ground_truth(file).objects
    assert entry["iscrowd"] == 0
    content["annotations"].append({"id": 8, "image_id": 50})
    check_entries(content, "truth.json", other_images=True)
    with pytest.raises(DataError, match="annotation 8: its image_id"):
        check_entries(content, "truth.json")
    del content["annotations"]
    file.write_text(json.dumps(content))
    assert read_coco(file, annotated=False) == {**content, "annotations": []}
    with pytest.raises(DataError, match="'annotations' is missing"):
        read_coco(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("nested", [False, True])
def test_categories_are_read_alone(nested, encoding, tmp_path):
    content = copy.deepcopy(CONTENT)
    if nested:  # an entry of another name, which is not the list
        content["images"][0]["categories"] = [{"id": 1, "name": "no"}]
    file = tmp_path / "truth.json"
    for order in (content, dict(reversed(content.items()))):
        file.write_text(json.dumps(order, ensure_ascii=False, indent=1), encoding=encoding)
        assert read_categories(file) == CONTENT["categories"]
    file.write_text('{"images": []}')
    with pytest.raises(DataError, match="'categories' is missing"):
        read_categories(file)


@pytest.mark.parametrize("read", [read_json, read_coco, read_categories, load_ground_truth])
def test_pipes_and_devices_are_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        with pytest.raises(DataError, match=f"{name}: is a pipe, socket or device"):
            read(str(tmp_path / name))
