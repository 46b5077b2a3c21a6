# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util
from skimage.draw import polygon2mask

from mrcnn_ext.coco.rle import rle_counts
from mrcnn_ext.config.load import default_config
from mrcnn_ext.data import check
from mrcnn_ext.data.check import Problem, check_coco_json
from mrcnn_ext.data.check.__main__ import main
from mrcnn_ext.data.check.against_config import check_with_config
from mrcnn_ext.data.check.annotation import mask_findings
from mrcnn_ext.data.check.dataset import check_coco, count_coco
from mrcnn_ext.errors import DataError

NAN, INF = math.nan, math.inf
KEYPOINTS = ["nose", "left_hand", "right_hand"]
HEIGHT, WIDTH = 48, 64


def _rle(mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def _crowd() -> dict:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[30:40, 40:60] = 1
    mask[32:36, 45:50] = 0
    return _rle(mask)


def _dataset() -> dict:
    """Annotations 21, 22 (crowd) in image 11; 23 in 12 (EXIF-turned); 24 in 15; 13 is empty."""
    images = [
        {"id": 11, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 12, "file_name": "sub/b.jpg", "height": WIDTH, "width": HEIGHT},
        {"id": 13, "file_name": "c.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 15, "file_name": "d.png", "height": HEIGHT, "width": WIDTH},
    ]
    person = {
        "id": 21,
        "image_id": 11,
        "category_id": 3,
        "iscrowd": 0,
        "bbox": [4, 6, 20, 30],
        "area": 600.0,
        "segmentation": [[4, 6, 24, 6, 24, 36, 4, 36]],
        "keypoints": [10, 8, 2, 0, 0, 0, 20.5, 30, 1],
        "num_keypoints": 2,
    }
    crowd = {
        "id": 22,
        "image_id": 11,
        "category_id": 3,
        "iscrowd": 1,
        "bbox": [40, 30, 20, 10],
        "area": 180,
        "segmentation": _crowd(),
        "keypoints": [0] * 9,
        "num_keypoints": 0,
    }
    # Two parts; the box reaches half a pixel out of the image, as COCO's do.
    other = {
        "id": 23,
        "image_id": 12,
        "category_id": 3,
        "iscrowd": 0,
        "bbox": [-0.5, 0, 48.7, 64],
        "area": 10 * 20 + 8 * 14,
        "segmentation": [[0, 0, 10, 0, 10, 20, 0, 20], [40, 50, 48, 50, 48, 64, 40, 64]],
        "keypoints": [5, 5, 2, 1, 1, 2, 47, 63, 2],
        "num_keypoints": 3,
    }
    ball = {
        "id": 24,
        "image_id": 15,
        "category_id": 7,
        "iscrowd": 0,
        "bbox": [30, 20, 8, 9],
        "area": 72,
        "segmentation": [[30, 20, 38, 20, 38, 29, 30, 29]],
    }
    return {
        "images": images,
        "annotations": [person, crowd, other, ball],
        "categories": [
            {"id": 3, "name": "person", "keypoints": KEYPOINTS, "skeleton": [[1, 2], [1, 3]]},
            {"id": 7, "name": "ball"},
        ],
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("check") / "images"
    (root / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(root / "a.png")
    image.save(root / "c.jpg")
    image.save(root / "d.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(root / "sub/b.jpg", exif=exif)  # stored 64x48, seen as 48x64
    for name in ("a.png", "c.jpg"):
        data = (root / name).read_bytes()
        (root / f"cut_{name}").write_bytes(data[: len(data) * 2 // 3])
    (root / "text.jpg").write_text("no image")
    (root / "folder.jpg").mkdir()
    return root


def _write(data, folder) -> str:
    file = folder / "data.json"
    file.write_text(json.dumps(data))
    return str(file)


def _found(problems: list[Problem]) -> list[tuple]:
    return sorted((p.severity, p.kind, p.image_id, p.annotation_id) for p in problems)


def test_faultless_set_has_no_problems(root, tmp_path):
    calls = []
    file = _write(_dataset(), tmp_path)
    for decode in (True, False):
        found = check_coco_json(
            file, root, decode_images=decode, progress=lambda *args: calls.append(args)
        )
        assert found == []
    assert ("images", 4, 4) in calls
    assert ("annotations", 4, 4) in calls
    assert count_coco(_dataset()) == {
        "images": 4,
        "annotations": 4,
        "categories": 2,
        "crowd": 1,
        "images_without_annotations": 1,
        "instances_min": 0,
        "instances_median": 1,
        "instances_max": 1,
    }


def test_set_with_boxes_only_is_faultless(root):
    data = _dataset()
    for annotation, segmentation in zip(data["annotations"], (None, [], [], None)):
        annotation["segmentation"] = segmentation
        annotation.pop("keypoints", None)
        annotation.pop("num_keypoints", None)
    assert check_coco(data, root) == []


# One fault each: where (images 0 ..., annotations 0 ..., categories 0 ...), key, value (DELETE: the
# key is removed), and what must be found, once and nothing else.
DELETE = object()
E, W = "error", "warning"
UNUSED = (W, "category-unused", None, None)
FAULTS = [
    ("images", 0, {"file_name": "none.png"}, (E, "image-missing", 11, None)),
    ("images", 0, {"file_name": "cut_a.png"}, (E, "image-unreadable", 11, None)),
    ("images", 2, {"file_name": "cut_c.jpg"}, (E, "image-unreadable", 13, None)),
    ("images", 2, {"file_name": "text.jpg"}, (E, "image-unreadable", 13, None)),
    ("images", 2, {"file_name": "folder.jpg"}, (E, "image-unreadable", 13, None)),
    ("images", 2, {"file_name": DELETE}, (E, "image-file-name", 13, None)),
    ("images", 2, {"file_name": 5}, (E, "image-file-name", 13, None)),
    ("images", 2, {"id": DELETE}, (E, "image-id-missing", None, None)),
    ("images", 2, {"height": HEIGHT + 1}, (E, "image-size", 13, None)),
    ("images", 1, {"height": HEIGHT, "width": WIDTH, "id": 14}, (E, "image-size", 14, None)),
    ("images", 2, {"height": DELETE}, (E, "image-height-width", 13, None)),
    ("images", 2, {"width": -WIDTH}, (E, "image-height-width", 13, None)),
    ("images", 2, {"width": 64.0}, (E, "image-height-width", 13, None)),
    ("images", 2, {"id": 11}, (E, "image-id-duplicate", 11, None)),
    ("categories", 1, {"id": 3}, (E, "category-id-duplicate", None, None)),
    ("categories", 1, {"id": DELETE}, (E, "category-format", None, None)),
    ("categories", 1, {"name": DELETE}, (E, "category-format", None, None)),
    ("categories", 1, {"name": "person"}, (W, "category-name-duplicate", None, None)),
    ("categories", 1, {"name": "Per son"}, (W, "category-name-alike", None, None)),
    ("categories", 0, {"skeleton": [[1, 4]]}, (E, "skeleton-index", None, None)),
    ("categories", 0, {"skeleton": [[0, 1]]}, (E, "skeleton-index", None, None)),
    ("categories", 0, {"keypoints": ["a", "b", "a"]}, (E, "keypoint-name-duplicate", None, None)),
    ("annotations", 2, {"id": 21}, (E, "annotation-id-duplicate", None, 21)),
    ("annotations", 2, {"id": DELETE}, (E, "annotation-id-missing", 12, None)),
    ("annotations", 2, {"id": 0}, (W, "annotation-id-zero", 12, 0)),
    ("annotations", 2, {"image_id": 99}, (E, "annotation-image", 99, 23)),
    ("annotations", 2, {"image_id": [12]}, (E, "annotation-image", [12], 23)),
    ("annotations", 2, {"image_id": DELETE}, (E, "annotation-image", None, 23)),
    ("annotations", 2, {"category_id": 4}, (E, "annotation-category", 12, 23)),
    ("annotations", 2, {"ignore": 1}, (E, "annotation-ignore", 12, 23)),
    ("annotations", 2, {"bbox": DELETE}, (E, "box-missing", 12, 23)),
    ("annotations", 2, {"bbox": []}, (E, "box-format", 12, 23)),
    ("annotations", 2, {"bbox": [1, 2, 3]}, (E, "box-format", 12, 23)),
    ("annotations", 2, {"bbox": [1, 2, 3, "4"]}, (E, "box-format", 12, 23)),
    ("annotations", 2, {"bbox": [1, 2, NAN, 4]}, (E, "box-not-finite", 12, 23)),
    ("annotations", 2, {"bbox": [-INF, 2, 3, 4]}, (E, "box-not-finite", 12, 23)),
    ("annotations", 2, {"bbox": [0, 0, 0, 64]}, (E, "box-empty", 12, 23)),
    ("annotations", 2, {"bbox": [48, 64, -48, -64]}, (E, "box-empty", 12, 23)),
    ("annotations", 2, {"bbox": [48, 0, 48, 64]}, (E, "box-outside", 12, 23)),
    ("annotations", 2, {"bbox": [0, -70, 48, 64]}, (E, "box-outside", 12, 23)),
    ("annotations", 2, {"bbox": [0, 0, 50, 64]}, (W, "box-partly-outside", 12, 23)),
    ("annotations", 2, {"bbox": [-2, 0, 50, 64]}, (W, "box-partly-outside", 12, 23)),
    ("annotations", 0, {"bbox": [4, 36, 20, 6]}, (W, "mask-box-mismatch", 11, 21)),
    ("annotations", 0, {"bbox": [4, 6, 24, 36]}, None),  # XYXY, but similar: cannot be told
    ("annotations", 1, {"bbox": [30, 40, 10, 8]}, (W, "mask-box-mismatch", 11, 22)),
    ("annotations", 0, {"area": 450}, (W, "mask-area-mismatch", 11, 21)),
    ("annotations", 0, {"area": 590}, None),
    ("annotations", 1, {"area": 250}, (W, "mask-area-mismatch", 11, 22)),
    ("annotations", 0, {"area": DELETE}, (W, "area-missing", 11, 21)),
    ("annotations", 0, {"area": -1}, (E, "area-value", 11, 21)),
    ("annotations", 0, {"area": "600"}, (E, "area-value", 11, 21)),
    ("annotations", 0, {"iscrowd": DELETE}, (W, "iscrowd-missing", 11, 21)),
    ("annotations", 0, {"iscrowd": None}, (E, "iscrowd-null", 11, 21)),
    ("annotations", 3, {"iscrowd": None}, (E, "iscrowd-null", 15, 24)),
    ("annotations", 0, {"area": None}, (E, "area-value", 11, 21)),
    ("annotations", 3, {"bbox": ["30", 20, 8, 9]}, (E, "box-format", 15, 24)),
    ("annotations", 3, {"category_id": 3, "keypoints": [0] * 9, "num_keypoints": 0}, UNUSED),
    ("images", 3, {"file_name": "./a.png"}, (W, "image-twice", 15, None)),
    ("annotations", 0, {"iscrowd": 2}, (E, "iscrowd-value", 11, 21)),
    ("annotations", 0, {"iscrowd": 1}, (W, "crowd-polygon", 11, 21)),
    ("annotations", 0, {"segmentation": []}, (E, "segmentation-empty", 11, 21)),
    ("annotations", 0, {"segmentation": DELETE}, (E, "segmentation-missing", 11, 21)),
    ("annotations", 1, {"segmentation": DELETE}, None),  # of a crowd, training needs none
    ("annotations", 0, {"segmentation": "mask.png"}, (E, "segmentation-format", 11, 21)),
    ("annotations", 0, {"segmentation": [4, 6, 24, 6, 24, 36]}, (E, "segmentation-format", 11, 21)),
    ("annotations", 0, {"segmentation": [[[4, 6], [24, 6]]]}, (E, "segmentation-format", 11, 21)),
    ("annotations", 0, {"segmentation": [[4, 6, None, 6]]}, (E, "segmentation-format", 11, 21)),
    ("annotations", 0, {"segmentation": [[4, 6, 24, 36]]}, (E, "polygon-short", 11, 21)),
    ("annotations", 0, {"segmentation": [[]]}, (E, "polygon-short", 11, 21)),
    ("annotations", 0, {"segmentation": [[4, 6, 24, 6, 24, 36, 4]]}, (E, "polygon-odd", 11, 21)),
    ("annotations", 0, {"segmentation": [[4, 6, NAN, 6, 2, 3]]}, (E, "polygon-not-finite", 11, 21)),
    ("annotations", 0, {"segmentation": [[4, 6, 24, 6, 1e9, 36]]}, (E, "mask-outside", 11, 21)),
    ("annotations", 0, {"segmentation": [[70, 6, 90, 6, 90, 36]]}, (E, "mask-empty", 11, 21)),
    ("annotations", 0, {"segmentation": [[4, 6, 24, 6, 4, 6]]}, (E, "mask-empty", 11, 21)),
    ("annotations", 0, {"segmentation": [[4.1, 6.1, 4.3, 6.1, 4, 6.2]]}, (W, "mask-empty", 11, 21)),
    ("annotations", 1, {"segmentation": {"size": [48, 64]}}, (E, "segmentation-format", 11, 22)),
    (
        "annotations",
        1,
        {"segmentation": {**_crowd(), "size": [64, 48]}},
        (E, "rle-size", 11, 22),
    ),
    (
        "annotations",
        1,
        {"segmentation": {"size": [48, 64], "counts": _crowd()["counts"][:-1]}},
        (E, "rle-invalid", 11, 22),
    ),
    (
        "annotations",
        1,
        {"segmentation": {"size": [48, 64], "counts": [100, 20, 30]}},
        (E, "rle-invalid", 11, 22),
    ),
    (
        "annotations",
        1,
        {"segmentation": {"size": [48, 64], "counts": [48 * 64]}},
        (E, "mask-empty", 11, 22),
    ),
    ("annotations", 0, {"keypoints": [1, 2]}, (E, "keypoints-length", 11, 21)),
    ("annotations", 0, {"keypoints": [1, 2, 2] * 2}, (E, "keypoints-length", 11, 21)),
    ("annotations", 0, {"keypoints": "none"}, (E, "keypoints-format", 11, 21)),
    ("annotations", 0, {"keypoints": [NAN, 2, 2] * 3}, (E, "keypoints-not-finite", 11, 21)),
    (
        "annotations",
        0,
        {"keypoints": [1, 2, 3, 1, 1, 1, 0, 0, 0]},
        (E, "keypoints-visibility", 11, 21),
    ),
    (
        "annotations",
        0,
        {"keypoints": [1, 2, 2, 1, 1, 1, 5, 5, 0]},
        (W, "keypoints-unlabelled", 11, 21),
    ),
    (
        "annotations",
        0,
        {"keypoints": [1, 2, 2, 66, 1, 1, 0, 0, 0]},
        (W, "keypoints-outside", 11, 21),
    ),
    ("annotations", 0, {"num_keypoints": 3}, (W, "num-keypoints-mismatch", 11, 21)),
    ("annotations", 0, {"num_keypoints": DELETE}, (W, "num-keypoints-missing", 11, 21)),
]


@pytest.mark.parametrize(("where", "index", "change", "expected"), FAULTS)
def test_each_fault_is_found_alone_and_with_its_ids(root, tmp_path, where, index, change, expected):
    data = _dataset()
    if change.get("id") == 14:  # annotations of another image's size would be faults of their own
        data["annotations"].pop(2)
    if where == "categories" and "id" in change:  # an annotation of the id that is lost, likewise
        data["annotations"].pop(3)
    for key, value in change.items():
        if value is DELETE:
            del data[where][index][key]
        else:
            data[where][index][key] = value
    problems = check_coco_json(_write(data, tmp_path), root)
    if expected is None:
        assert problems == []
        return
    (problem,) = problems
    assert (problem.severity, problem.kind, problem.image_id, problem.annotation_id) == expected
    assert len(problem.message) > 15
    assert len(problem.message) < 500


def test_one_bad_polygon_of_several_keeps_the_instance(root):
    data = _dataset()
    data["annotations"][0]["segmentation"].append([1, 2, 3, 4])
    (problem,) = check_coco(data, root)
    assert problem.kind == "polygon-short"
    assert "whole instance" not in problem.message
    data["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    (problem,) = check_coco(data, root)
    assert "whole instance" in problem.message


def test_all_faults_are_found_in_one_run(root):
    data = _dataset()
    data["images"][0]["file_name"] = "none.png"
    data["images"][2]["height"] = 5
    data["annotations"][0].update(bbox=[1, 1, 0, 5], keypoints=[1, 1, 1], num_keypoints=7)
    data["annotations"][2].update(bbox=[NAN] * 4, segmentation=[])
    assert _found(check_coco(data, root)) == [
        (E, "box-empty", 11, 21),
        (E, "box-not-finite", 12, 23),
        (E, "image-missing", 11, None),
        (E, "image-size", 13, None),
        (E, "keypoints-length", 11, 21),
        (E, "segmentation-empty", 12, 23),
    ]


def test_images_of_turned_size_name_their_orientation(root):
    data = _dataset()
    data["annotations"].pop(2)
    data["images"][1].update(height=HEIGHT, width=WIDTH)
    (problem,) = check_coco(data, root, decode_images=False)
    assert "EXIF orientation 6" in problem.message


def test_truncated_image_needs_decoding(root):
    data = _dataset()
    data["images"][2]["file_name"] = "cut_c.jpg"
    assert check_coco(data, root, decode_images=False) == []
    assert [p.kind for p in check_coco(data, root)] == ["image-unreadable"]


def test_instances_that_cannot_be_stacked(root):
    data = _dataset()
    second = copy.deepcopy(data["annotations"][0])
    second["id"] = 25
    del second["keypoints"], second["num_keypoints"]
    data["annotations"].append(second)
    assert _found(check_coco(data, root)) == [(E, "keypoints-missing", 11, 25)]
    # A category without a list of keypoints does not say how many are right: most do.
    second.update(category_id=7, keypoints=[1, 1, 2] * 2, num_keypoints=2)
    assert _found(check_coco(data, root)) == [(E, "keypoints-mixed", 11, 25)]


def test_polygons_and_rle_mixed(root):
    data = _dataset()
    data["annotations"][1]["iscrowd"] = 0
    (problem,) = check_coco(data, root)
    assert (problem.severity, problem.kind) == (W, "polygon-rle-mixed")
    assert "INPUT.MASK_FORMAT" in problem.message


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_entries_that_are_no_dicts(root, key):
    data = _dataset()
    data[key].append([1])
    (problem,) = check_coco(data, root)
    assert problem.severity == E
    assert problem.kind == {"categories": "category-format"}.get(key, f"{key[:-1]}-format")


def test_metadata_is_compared(root):
    name = "mrcnn_ext_test_check_metadata"
    metadata = MetadataCatalog.get(name)
    pairs = [("left_hand", "right_hand")]
    try:
        metadata.set(
            thing_classes=["person", "ball"], keypoint_names=KEYPOINTS, keypoint_flip_map=pairs
        )
        assert check_coco(_dataset(), root, metadata=metadata) == []
        for key, value, severity, kind in [
            ("thing_classes", ["ball", "person"], E, "metadata-classes"),
            ("keypoint_names", KEYPOINTS[:2] + ["right_hand", "x"], E, "metadata-keypoints"),
            ("keypoint_flip_map", [*pairs, ("a", "b")], E, "metadata-flip-map"),
        ]:
            MetadataCatalog.pop(name)
            values = {"thing_classes": ["person", "ball"], "keypoint_names": KEYPOINTS}
            values.update({"keypoint_flip_map": pairs, key: value})
            metadata = MetadataCatalog.get(name).set(**values)
            (problem,) = check_coco(_dataset(), root, metadata=metadata)
            assert (problem.severity, problem.kind) == (severity, kind)
            assert name in problem.message
        MetadataCatalog.pop(name)
        metadata = MetadataCatalog.get(name).set(keypoint_names=KEYPOINTS, keypoint_flip_map=[])
        problems = check_coco(_dataset(), root, metadata=metadata)
        assert {(p.severity, p.kind) for p in problems} == {(W, "metadata-flip-map")}
    finally:
        MetadataCatalog.pop(name)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1.5, 48.0, 10**400, NAN, INF, "", "a.png", "\ud800", "\0"])
    | st.floats(),
    lambda inner: st.lists(inner, max_size=8) | st.just({"size": [48, 64.0], "counts": "1"}),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_json_value_stops_the_check(root, data):
    broken = _dataset()
    for _ in range(data.draw(st.integers(1, 3))):
        record = data.draw(st.sampled_from([r for part in broken.values() for r in part]))
        record[data.draw(st.sampled_from(sorted(record)))] = data.draw(_VALUES)
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    problems = check_coco(broken, root, decode_images=False) + check_with_config(broken, cfg)
    assert all(p.severity in (E, W) for p in problems)
    assert sum(p.message.count("\n") for p in problems) == 0
    assert count_coco(broken)["images"] == 4


# ------------------------------------------------------------------------- independent references


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), fill=st.sampled_from([0.01, 0.3, 0.7, 1.0]))
def test_run_lengths_are_those_of_the_mask(seed, fill):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 70, 2)) < fill
    mask = np.kron(mask, np.ones((1, int(rng.integers(1, 60))), dtype=bool))
    runs, value = [], False
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels)) + 1
    for part in np.split(pixels, edges):
        if not runs and part[0] != value:
            runs.append(0)
        runs.append(len(part))
    compressed = _rle(mask)
    assert rle_counts(compressed["counts"]).tolist() == runs
    size = mask.shape
    for segmentation in (compressed, {"size": list(size), "counts": runs}):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        annotation = {"segmentation": segmentation}
        if not len(rows):
            assert [f[1] for f in mask_findings(annotation, size)] == ["mask-empty"]
            continue
        # Right values pass, and 20 % (and 16 pixels) more do not.
        x, y = int(columns[0]), int(rows[0])
        annotation["bbox"] = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
        area = int(mask.sum())
        annotation["area"] = area
        assert list(mask_findings(annotation, size)) == []
        annotation["area"] = area + max(16, area // 4) + 1
        (finding,) = mask_findings(annotation, size)
        assert finding[1] == "mask-area-mismatch"
        assert f"has {area} pixels" in finding[2]


@pytest.mark.parametrize("seed", range(10))
def test_area_of_polygons_is_that_of_another_rasteriser(seed):
    rng = np.random.default_rng(seed)
    size = (120, 150)
    polygons, mask = [], np.zeros(size, dtype=bool)
    for _ in range(2):  # two parts, which may overlap: their union counts
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        ring = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(15, 30, (9, 1))
        ring += rng.uniform(40, 80, 2)
        polygons.append(ring.ravel().tolist())
        mask |= polygon2mask(size, ring[:, ::-1] - 0.5)  # skimage: pixel centres are integers
    annotation = {"segmentation": polygons, "area": 0}
    (finding,) = mask_findings(annotation, size)
    pixels = int(finding[2].split("has ")[1].split()[0])
    assert pixels == pytest.approx(mask.sum(), rel=0.03)


# ----------------------------------------------------------------------------------- unusable json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "not valid json"),
        ("[]", "holds a list"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is not a list"),
    ],
)
def test_unusable_json_is_one_error(tmp_path, capsys, content, message):
    file = tmp_path / "data.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=message):
        check_coco_json(file, tmp_path)
    assert main(["--json-file", str(file), "--image-root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


# ------------------------------------------------------------------------------------ command line


def _cli(data, root, tmp_path, *options) -> int:
    return main(["--json-file", _write(data, tmp_path), "--image-root", str(root), *options])


def test_exit_codes_and_report(root, tmp_path, capsys):
    data = _dataset()
    out = tmp_path / "new" / "report.json"
    assert _cli(data, root, tmp_path, "--json", str(out)) == 0
    text = capsys.readouterr().out
    assert "4 images (1 without annotations), 4 annotations (1 crowd)" in text
    assert "next: python -m mrcnn_ext.data.stats " in text
    assert json.loads(out.read_text())["ok"] is True

    del data["annotations"][0]["area"]
    assert _cli(data, root, tmp_path) == 0
    assert _cli(data, root, tmp_path, "--strict", "--json", str(out)) == 1
    report = json.loads(out.read_text())
    assert report["ok"] is False
    (result,) = report["datasets"]
    assert (result["errors"], result["warnings"]) == (0, 1)
    assert result["problems"][0]["kind"] == "area-missing"
    assert result["problems"][0]["annotation_id"] == 21
    assert result["counts"] == count_coco(data)
    assert os.listdir(out.parent) == ["report.json"]

    data["annotations"][0]["bbox"] = [0, 0, 0, 0]
    capsys.readouterr()
    assert _cli(data, root, tmp_path) == 1
    assert "image 11, annotation 21: bbox [0, 0, 0, 0]" in capsys.readouterr().out


def test_max_shown_limits_each_kind(root, tmp_path, capsys):
    data = _dataset()
    for index in range(6):
        data["annotations"].append({**data["annotations"][0], "id": 100 + index, "bbox": [0] * 4})
    assert _cli(data, root, tmp_path, "--max-shown", "2") == 1
    text = capsys.readouterr().out
    assert text.count("bbox [0, 0, 0, 0]") == 2
    assert "and 4 more" in text
    _cli(data, root, tmp_path, "--max-shown", "0")
    assert capsys.readouterr().out.count("bbox [0, 0, 0, 0]") == 6


def test_report_that_cannot_be_written(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert _cli(_dataset(), root, tmp_path, "--json", str(tmp_path / "file" / "out.json")) == 2
    assert "out.json" in capsys.readouterr().err


def test_the_report_never_overwrites_the_data_set(root, tmp_path, capsys):
    file = _write(_dataset(), tmp_path)
    assert main(["--json-file", file, "--image-root", str(root), "--json", file]) == 2
    assert "is the data set" in capsys.readouterr().err
    with open(file) as stored:
        assert json.load(stored) == _dataset()


@pytest.mark.parametrize("arguments", [[], ["--json-file", "x"], ["--image-root", "x"], ["--what"]])
def test_wrong_usage(arguments):
    with pytest.raises(SystemExit) as info:
        main(arguments)
    assert info.value.code == 2


def test_unknown_name_lists_similar_ones(capsys):
    assert main(["coco_2017_vall"]) == 2
    assert "coco_2017_val," in capsys.readouterr().err
    assert main(["mrcnn_ext_x", "--import", "no_such_module_here"]) == 2
    assert "no_such_module_here" in capsys.readouterr().err


def test_set_of_another_format_is_refused(capsys):
    assert main(["lvis_v1_val"]) == 2
    assert "not in COCO's format" in capsys.readouterr().err


@pytest.mark.slow
def test_imported_module_registers_sets(root, tmp_path):
    name = "mrcnn_ext_test_check_import"
    data = _dataset()
    data["annotations"][0]["category_id"] = 5
    (tmp_path / "registers_sets.py").write_text(
        "from detectron2.data.datasets import register_coco_instances\n"
        f"register_coco_instances({name!r}, {{}}, {_write(data, tmp_path)!r}, {str(root)!r})\n"
    )
    command = [sys.executable, "-W", "ignore", "-m", "mrcnn_ext.data.check", name]
    command += ["--import", "registers_sets"]
    result = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True)
    assert result.returncode == 1, result.stderr.decode()
    assert b"annotation-category" in result.stdout
    assert result.stderr == b""


def _environment() -> dict[str, str]:
    import mrcnn_ext

    folder = os.path.dirname(os.path.dirname(mrcnn_ext.__file__))
    return {**os.environ, "PYTHONPATH": folder}


# ----------------------------------------------------------------------------------------- config


def _config_file(tmp_path, **values) -> str:
    cfg = default_config()
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    file = tmp_path / "config.yaml"
    file.write_text(cfg.dump())
    return str(file)


GOOD = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 2,
    "MODEL.MASK_ON": True,
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
    "TEST.KEYPOINT_OKS_SIGMAS": [0.1, 0.1, 0.1],
}


@pytest.mark.parametrize(
    ("change", "prepare", "kind", "words"),
    [
        ({}, None, None, []),
        (
            {"MODEL.ROI_HEADS.NUM_CLASSES": 80},
            None,
            "config-num-classes",
            ["MODEL.ROI_HEADS.NUM_CLASSES is 80", "2 categories", "person, ball"],
        ),
        (
            {"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 17},
            None,
            "config-num-keypoints",
            ["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is 17", "has 3"],
        ),
        (
            {"TEST.KEYPOINT_OKS_SIGMAS": []},
            None,
            "config-oks-sigmas",
            ["TEST.KEYPOINT_OKS_SIGMAS", "3 keypoints"],
        ),
        ({}, "rle", "config-mask-format", ["INPUT.MASK_FORMAT", "annotation 21 of image 11"]),
        ({"INPUT.MASK_FORMAT": "bitmask"}, "rle", None, []),
        ({"MODEL.MASK_ON": False}, "rle", None, []),
        ({}, "no segmentation", "config-mask-on", ["MODEL.MASK_ON"]),
        ({}, "no keypoints", "config-keypoint-on", ["MODEL.KEYPOINT_ON"]),
        ({"MODEL.KEYPOINT_ON": False}, "no keypoints", None, []),
    ],
)
def test_config_is_compared(root, tmp_path, capsys, change, prepare, kind, words):
    data = _dataset()
    for annotation in data["annotations"]:
        if prepare == "rle":
            image = next(i for i in data["images"] if i["id"] == annotation["image_id"])
            if not annotation["iscrowd"]:
                rles = mask_util.frPyObjects(
                    annotation["segmentation"], image["height"], image["width"]
                )
                rle = mask_util.merge(rles)
                annotation["segmentation"] = {**rle, "counts": rle["counts"].decode()}
        elif prepare is not None:
            annotation.pop(prepare.split()[1], None)
    config = _config_file(tmp_path, **{**GOOD, **change})
    code = _cli(data, root, tmp_path, "--config-file", config, "--json", str(tmp_path / "out"))
    (result,) = json.loads((tmp_path / "out").read_text())["datasets"]
    assert [p["kind"] for p in result["problems"]] == ([kind] if kind else [])
    assert code == (1 if kind else 0)
    for word in words:
        assert word in result["problems"][0]["message"]


def test_config_names_the_sets_and_needs_their_keypoint_metadata(root, tmp_path):
    name = "mrcnn_ext_test_check_config"
    register_coco_instances(name, {}, _write(_dataset(), tmp_path), str(root))
    out = tmp_path / "out"
    try:
        train = _config_file(tmp_path, **GOOD, **{"DATASETS.TRAIN": (name,)})
        assert main(["--config-file", train, "--json", str(out)]) == 1
        (result,) = json.loads(out.read_text())["datasets"]
        assert result["name"] == name
        (problem,) = result["problems"]
        assert problem["kind"] == "config-keypoint-metadata"
        assert "keypoint_names and keypoint_flip_map" in problem["message"]
        # Testing mirrors nothing.
        test = _config_file(tmp_path, **GOOD, **{"DATASETS.TEST": (name,)})
        assert main(["--config-file", test]) == 0
        typo = {"DATASETS.TEST": (name,), "MODEL.META_ARCHITECTURE": "GeneralizedRCN"}
        typo = _config_file(tmp_path, **GOOD, **typo)
        assert main(["--config-file", typo, "--json", str(out)]) == 1
        (problem,) = json.loads(out.read_text())["datasets"][0]["problems"]
        assert problem["kind"] == "config-name"
        assert "MODEL.META_ARCHITECTURE is 'GeneralizedRCN'" in problem["message"]
        assert "similar names: GeneralizedRCNN" in problem["message"]
        unknown = _config_file(tmp_path, **GOOD, **{"DATASETS.TEST": (name + "s",)})
        assert main(["--config-file", unknown]) == 2
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_masks_of_a_test_set_may_be_rle(root):
    data = _dataset()
    data["annotations"] = [{**data["annotations"][1], "iscrowd": 0}]
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES = True, 2
    name = "mrcnn_ext_test_check_rle"
    metadata = MetadataCatalog.get(name)
    try:
        assert [p.kind for p in check_with_config(data, cfg, metadata)] == ["config-mask-format"]
        cfg.DATASETS.TEST = (name,)
        assert check_with_config(data, cfg, metadata) == []
    finally:
        MetadataCatalog.pop(name)


@pytest.mark.parametrize("content", [None, "MODEL: [", "MODEL:\n  NO_SUCH_KEY: 1\n"])
def test_unusable_config_is_one_error(tmp_path, capsys, content):
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    assert main(["--config-file", str(file)]) == 2
    assert str(file) in capsys.readouterr().err


def test_builtin_shapes_are_made_and_faultless(tmp_path):
    config = _config_file(
        tmp_path,
        **{
            "DATASETS.TRAIN": ("mrcnn_ext_shapes_train",),
            "DATASETS.TEST": ("mrcnn_ext_shapes_val",),
            "MODEL.ROI_HEADS.NUM_CLASSES": 8,
            "MODEL.MASK_ON": True,
            "INPUT.MASK_FORMAT": "bitmask",
            "MRCNN_EXT.SHAPES.NUM_TRAIN": 3,
            "MRCNN_EXT.SHAPES.NUM_VAL": 2,
            "MRCNN_EXT.SHAPES.IMAGE_SIZE": 96,
        },
    )
    try:
        out = tmp_path / "out.json"
        assert main(["--config-file", config, "--json", str(out)]) == 0
        report = json.loads(out.read_text())
        assert [r["counts"]["images"] for r in report["datasets"]] == [3, 2]
        for result in report["datasets"]:
            content = json.loads(Path(result["json_file"]).read_text())
            used = {a["category_id"] for a in content["annotations"]}
            unused = [c["id"] for c in content["categories"] if c["id"] not in used]
            kinds = [(p["severity"], p["kind"]) for p in result["problems"]]
            assert kinds == [(W, "category-unused")] * len(unused)
    finally:
        from mrcnn_ext.data.shapes import configure_builtin_shapes

        configure_builtin_shapes()


def test_module_exports_what_its_users_need():
    assert check.check_coco_json is check_coco_json


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    content = {"images": [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}]}
    content.update(annotations=[], categories=[{"id": 1, "name": ""}])
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = {p.kind: p.message for p in check_coco_json(tmp_path / "a.json", tmp_path)}
    assert found["image-unreadable"].endswith("a.jpg is no file")
    assert found["category-format"] == "the name of category 1 is '', expected a text"
