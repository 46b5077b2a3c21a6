# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Valid COCO forms that Detectron2's loader drops are kept; what is invalid is one error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from mrcnn_ext.data import register_coco
from mrcnn_ext.data.check import check_coco_json
from mrcnn_ext.data.loading import load_mended
from mrcnn_ext.errors import DataError

HEIGHT, WIDTH = 20, 30


def _mask(x, y, w, h) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return mask


def _rle(mask, compressed: bool) -> dict:
    if compressed:
        rle = mask_util.encode(mask)
        return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0] * int(flat[0]) + runs}


@pytest.fixture
def load(tmp_path):
    name = "mrcnn_ext_test_loading"

    def load(segmentation, drop=(), **values):
        annotation = {"id": "a-5", "image_id": "one", "category_id": "x", "iscrowd": 0, "area": 9}
        annotation.update({"bbox": [2, 3, 6, 4], "segmentation": segmentation, **values})
        image = {"id": "one", "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}
        content = {"images": [image], "annotations": [annotation]}
        content["categories"] = [{"id": "x", "name": "ring"}]
        for key in drop:
            del content[key]
        (tmp_path / "data.json").write_text(json.dumps(content))
        register_coco(name, tmp_path / "data.json", tmp_path)
        return DatasetCatalog.get(name)

    yield load
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("parts", [0, 1, 2])
def test_every_form_of_rle_is_trained_on(load, compressed, parts):
    masks = [_mask(2, 3, 6, 4), _mask(7, 5, 4, 4)][: max(parts, 1)]
    rles = [_rle(mask, compressed) for mask in masks]
    (record,) = load(rles if parts else rles[0])
    (annotation,) = record["annotations"]
    assert record["image_id"] == "one"
    assert annotation["category_id"] == 0
    decoded = mask_util.decode(annotation["segmentation"])
    np.testing.assert_array_equal(decoded, np.any(masks, axis=0))


@pytest.mark.parametrize("segmentation", [[[2, 3, 8, 3, 8, 7]], [_rle(_mask(2, 3, 6, 4), True)]])
def test_iscrowd_null_is_trained_on(load, segmentation):
    (record,) = load(segmentation, iscrowd=None)
    assert record["annotations"][0]["iscrowd"] == 0


def test_the_check_knows_which_loader_takes_what(load, tmp_path):
    load([_rle(_mask(2, 3, 6, 4), True)], iscrowd=None, area=24)
    metadata = MetadataCatalog.get("mrcnn_ext_test_loading")
    for known, severity in ((metadata, "warning"), (None, "error")):
        problems = check_coco_json(tmp_path / "data.json", tmp_path, metadata=known)
        found = {(p.severity, p.kind) for p in problems} - {
            ("error", "image-missing"),
            ("warning", "annotation-id-text"),
        }
        expected = {(severity, "iscrowd-null")} | ({("error", "rle-list")} if not known else set())
        assert found == expected


def test_a_test_set_without_annotations_loads(load):
    (record,) = load(None, drop=["annotations"])
    assert record["annotations"] == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, "no polygon has three points"),
        (
            {"segmentation": [_rle(_mask(2, 3, 6, 4), True), {"size": [20, 30], "counts": "?~"}]},
            "its mask",
        ),
        (
            {"segmentation": {"size": [20, 30], "counts": [1, -2, 601]}},
            "its mask is damaged: it has",
        ),
        (
            {"segmentation": {"size": [20, 30], "counts": [5]}},
            "its mask is damaged: its runs do not",
        ),
        ({"segmentation": {"size": [20, 30], "counts": [10**18]}}, "its mask is damaged: a run is"),
        (
            {"segmentation": {"size": [20, 30], "counts": [[600]]}},
            "its mask is damaged: its counts",
        ),
        ({"segmentation": {"size": [20, 30], "counts": "b'600'"}}, "its mask is damaged: its"),
        ({"segmentation": [], "bbox": None}, "bbox None"),
        ({"segmentation": [], "area": None}, "area None"),
    ],
)
def test_what_is_invalid_is_one_error(load, values, words):
    with pytest.raises(DataError, match=rf"data.json: image 'one', annotation 'a-5': {words}"):
        load(**values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][0].pop("id"), "image 1, annotation None: expected a number"),
        (
            lambda c: c["annotations"][0].update(id=[]),
            r"image 1, annotation \[\]: expected a number",
        ),
        (lambda c: c["annotations"][0].update(image_id={}), r"image {}, annotation 1: expected a"),
        (
            lambda c: c["annotations"].append(c["annotations"][0]),
            "image 1, annotation 1: another annotation has",
        ),
        (lambda c: c["categories"][0].pop("name"), "category 1: its name is None, expected a text"),
        (lambda c: c["categories"][0].update(name=[]), r"category 1: its name is \[\], expected"),
        (lambda c: c["images"][0].pop("file_name"), "image 1: its file_name is None, expected a"),
        (lambda c: c["images"][0].update(file_name=5), "image 1: its file_name is 5, expected"),
        (lambda c: c["images"][0].update(id=float("nan")), r"images\[0\] has no id"),
    ],
)
def test_what_detectron2_cannot_read_is_one_error(tmp_path, change, words):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "ring"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [2, 3, 6, 4],
                "area": 9,
                "iscrowd": 0,
            }
        ],
    }
    change(content)
    (tmp_path / "data.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"data.json: {words}"):
        load_mended(str(tmp_path / "data.json"), str(tmp_path), None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_that_detectron2_does_not_read_are_said(tmp_path, encoding):
    content = {"images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}]}
    content.update(annotations=[], categories=[{"id": 1, "name": "ring"}])
    (tmp_path / "data.json").write_text(json.dumps(content), encoding=encoding)
    with pytest.raises(DataError, match=r"data.json: the file .* not read; save it as UTF-8"):
        load_mended(str(tmp_path / "data.json"), str(tmp_path), None)
    kinds = {p.kind for p in check_coco_json(tmp_path / "data.json", tmp_path)}
    assert "json-encoding" in kinds
