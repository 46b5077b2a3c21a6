# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mistakes of converters, by their pattern; data sets beside each other; odd pictures."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from pycocotools import mask as mask_util

from mrcnn_ext.config.load import default_config
from mrcnn_ext.data.check.__main__ import main
from mrcnn_ext.data.check.against_config import check_with_config
from mrcnn_ext.data.check.dataset import check_coco

E, W = "error", "warning"
HEIGHT, WIDTH = 160, 200
COUNT = 6


def _dataset() -> dict:
    images = [
        {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(1, 4)
    ]
    annotations = []
    for index in range(COUNT):
        x, y, w, h = 40 + 3 * index, 30 + 2 * index, 50 + index, 40
        annotations.append(
            {
                "id": index + 1,
                "image_id": index // 2 + 1,
                "category_id": index % 2 + 1,
                "iscrowd": 0,
                "bbox": [x, y, w, h],
                "area": w * h,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
        )
    categories = [{"id": 1, "name": "widget"}, {"id": 2, "name": "gadget"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("patterns")
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for index in range(1, 4):
        Image.fromarray(pixels).save(root / f"{index}.png")
    return root


def _kinds(problems) -> set:
    return {(p.severity, p.kind) for p in problems}


def _each(change):
    def apply(data):
        for annotation in data["annotations"]:
            change(annotation)

    return apply


def _corners(annotation, masks=True):
    x, y, w, h = annotation["bbox"]
    annotation["bbox"] = [x, y, x + w, y + h]
    if not masks:
        annotation["segmentation"] = []


def _rle(annotation):
    rles = mask_util.frPyObjects(annotation["segmentation"], HEIGHT, WIDTH)
    rle = mask_util.merge(rles)
    annotation["segmentation"] = {**rle, "counts": rle["counts"].decode()}


def _corners_rle(annotation):
    _rle(annotation)
    _corners(annotation)


def _corners_beyond(annotation):
    """The object is right and below of the middle, and its area missing."""
    x, y, w, h = annotation["bbox"]
    annotation.update(bbox=[x + 60, y + 50, x + 60 + w, y + 50 + h], segmentation=[])
    del annotation["area"]


def _normalise(annotation, polygons=True):
    x, y, w, h = annotation["bbox"]
    annotation["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
    annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    polygon = np.array(annotation["segmentation"][0]).reshape(-1, 2) / [WIDTH, HEIGHT]
    annotation["segmentation"] = [polygon.ravel().tolist()] if polygons else []


def _hole(annotation):
    x, y, w, h = annotation["bbox"]
    x, y, w, h = x + 8, y + 8, w - 16, h - 16
    annotation["segmentation"].append([x, y, x + w, y, x + w, y + h, x, y + h])


def _two_parts(annotation):
    x, y, w, h = annotation["bbox"]
    half = [x, y, x + w / 2, y, x + w / 2, y + h, x, y + h]
    other = [x + w / 2, y, x + w, y, x + w, y + h, x + w / 2, y + h]
    annotation["segmentation"] = [half, other]


def _root(data):
    data["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
    for category in data["categories"][1:]:
        category["supercategory"] = "things"


def _twice(data):
    data["annotations"].append({**data["annotations"][0], "id": 99})


def _crowd_category(data):
    for annotation in data["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 2)
        if annotation["iscrowd"]:
            _rle(annotation)


def _all_crowds(data):
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1
        _rle(annotation)


def _rle_lists(annotation):
    _rle(annotation)
    annotation["segmentation"] = [annotation["segmentation"]]


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        (lambda data: None, set(), ""),
        (_each(lambda a: a.update(iscrowd=None)), {(E, "iscrowd-null")}, "training drops"),
        (_all_crowds, {(E, "crowd-all")}, "all 6 annotations have iscrowd 1"),
        (_crowd_category, {(W, "crowd-category")}, "all 3 annotations of category 2"),
        (
            lambda data: data["categories"].append({"id": 9, "name": "none"}),
            {(W, "category-unused")},
            r"category 'none' \(id 9\)",
        ),
        (_root, {(W, "category-root")}, r"category 'things' \(id 0\) looks like the root"),
        (lambda data: data["annotations"].clear(), {(W, "annotations-none")}, "no annotation"),
        (_each(_corners), {(E, "box-corners")}, "all 6 boxes .* the box of its mask"),
        (_each(_corners_rle), {(E, "box-corners")}, "all 6 boxes .* the box of its mask"),
        (_each(lambda a: _corners(a, False)), {(E, "box-corners")}, "all 6 boxes .* its area"),
        (_each(_corners_beyond), {(W, "box-corners")}, "6 boxes reach beyond"),
        (
            _each(_normalise),
            {(E, "normalised-boxes"), (E, "normalised-polygons")},
            "all 6 (boxes|polygons) lie within 0 … 1",
        ),
        (_each(lambda a: _normalise(a, False)), {(E, "normalised-boxes")}, "all 6 boxes"),
        (
            lambda data: _normalise(data["annotations"][4], True),
            {(W, "normalised-boxes"), (W, "normalised-polygons")},
            "1 of 6",
        ),
        (_each(_hole), {(W, "polygon-inside")}, "polygon 2 lies within polygon 1"),
        (_each(_two_parts), set(), ""),
        (_twice, {(W, "annotation-twice")}, "that of annotation 1 again"),
        (
            lambda data: data["images"].append({**data["images"][0], "id": 9}),
            {(W, "image-twice")},
            "'1.png' is listed 2 times, as the images 1, 9",
        ),
        (_each(_rle), set(), ""),
        (
            _each(lambda a: a.update(id=f"b3-{a['id']}")),
            {(W, "annotation-id-text")},
            "all 6 annotations have texts as ids: Detectron2's COCOEvaluator",
        ),
        (_each(_rle_lists), {(E, "rle-list")}, "MRCNN_EXT.DATA.DATASETS"),
    ],
)
def test_patterns(root, change, expected, words):
    data = _dataset()
    change(data)
    problems = check_coco(data, root)
    # What follows from the pattern may be said of single annotations, too.
    follows = {"box-partly-outside", "mask-box-mismatch", "area-missing", "mask-empty"}
    follows |= {"mask-area-mismatch"} if (W, "polygon-inside") in expected else set()
    assert {found for found in _kinds(problems) if found[1] not in follows} == expected
    told = [p for p in problems if (p.severity, p.kind) in expected]
    assert all(re.search(words, p.message) for p in told), [p.message for p in told]


def test_patterns_are_said_once(root):
    data = _dataset()
    for annotation in data["annotations"]:
        _corners(annotation)
    found = [p for p in check_coco(data, root) if p.kind == "box-corners"]
    assert [(p.image_id, p.annotation_id) for p in found] == [(1, 1)]


@pytest.mark.parametrize("few", [1, 2])
def test_few_boxes_make_no_pattern(root, few):
    data = _dataset()
    for annotation in data["annotations"][:few]:
        _corners(annotation)
    assert not any(p.kind == "box-corners" for p in check_coco(data, root))


def test_large_objects_at_the_origin_are_no_corners(root):
    """[x, y, width, height] with width > x and height > y, as of objects that fill their image."""
    data = _dataset()
    for index, annotation in enumerate(data["annotations"]):
        annotation.update(bbox=[index, 3, 150, 120], area=9000, segmentation=[])
    assert _kinds(check_coco(data, root)) == set()


def test_orientations_that_the_size_does_not_tell(root, tmp_path):
    data = _dataset()
    for index, (orientation, size) in enumerate(
        [(3, (200, 160)), (6, (160, 160)), (6, (160, 200))]
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", size).save(tmp_path / f"{index + 1}.png", exif=exif)
    data["images"][1].update(width=160)
    data["images"][2].update(width=200, height=160)  # turned: the json's size says so
    (problem,) = (p for p in check_coco(data, tmp_path) if p.kind.startswith("image"))
    assert (problem.severity, problem.kind) == (W, "image-orientation")
    assert "2 of 3 images have an EXIF orientation" in problem.message


def test_pictures_that_are_read_wrongly(tmp_path):
    data = _dataset()
    del data["annotations"][:]
    pixels = np.full((HEIGHT, WIDTH), 3000, dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    page = Image.new("RGB", (WIDTH, HEIGHT))
    page.save(tmp_path / "2.tif", save_all=True, append_images=[page])
    Image.new("1", (20000, 9500)).save(tmp_path / "3.png")
    data["images"][1]["file_name"] = "2.tif"
    data["images"][2].update(width=20000, height=9500)
    for decode in (True, False):
        problems = check_coco(data, tmp_path, decode_images=decode)
        problems = [p for p in problems if p.kind != "annotations-none"]
        assert [(p.severity, p.kind, p.image_id) for p in problems] == [
            (E, "image-content", 1),
            (W, "image-content", 2),
            (E, "image-content", 3),
        ]
        words = ["16-bit", "2 pages", "million pixels"]
        assert all(word in p.message for word, p in zip(words, problems))


# ------------------------------------------------------------------------- data sets side by side


@pytest.fixture
def registered(root, tmp_path):
    """Register two jsons; return a function that checks them with a config."""
    names = []

    def check(train: dict, test: dict, *options, use_config=True, **values) -> list[list[dict]]:
        for name, data in (("mrcnn_ext_test_a", train), ("mrcnn_ext_test_b", test)):
            (tmp_path / f"{name}.json").write_text(json.dumps(data))
            if name not in names:
                register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(root))
                names.append(name)
        cfg = default_config()
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (names[0],), (names[1],)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
        cfg.merge_from_list([part for pair in values.items() for part in pair])
        (tmp_path / "config.yaml").write_text(cfg.dump())
        wanted = ["--config-file", str(tmp_path / "config.yaml")] if use_config else names
        code = main([*wanted, "--json", str(tmp_path / "out"), *options])
        results = json.loads((tmp_path / "out").read_text())["datasets"]
        assert code == int(any(r["errors"] for r in results))
        return [r["problems"] for r in results]

    yield check
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_test_sets_with_other_classes_are_an_error(registered):
    train, test = _dataset(), _dataset()
    test["images"] = []
    test["annotations"] = []
    for change, words in [
        (lambda c: None, None),
        (lambda c: [c[0].update(id=5), c[1].update(id=9)], None),  # names, not ids, decide
        (lambda c: c.reverse(), None),  # the order of ids, not of the list
        (lambda c: [c[0].update(id=2), c[1].update(id=1)], "number 0 (by category id) is 'gadget'"),
        (lambda c: c[1].update(name="Gadget"), "[gadget] are missing and [Gadget] are not there"),
    ]:
        test["categories"] = copy.deepcopy(train["categories"])
        change(test["categories"])
        first, second = registered(train, test)
        assert first == []
        found = [p for p in second if p["kind"] == "classes-differ"]
        assert [p["severity"] for p in found] == [E] * (words is not None)
        assert all(words in p["message"] for p in found)
        _, second = registered(train, test, use_config=False)
        found = [p for p in second if p["kind"] == "classes-differ"]
        assert [p["severity"] for p in found] == [W] * (words is not None)


def test_images_of_training_in_a_test_set_are_a_warning(registered):
    test = _dataset()
    for index, image in enumerate(test["images"]):
        image.update(id=70 + index, file_name=f"other/{image['file_name']}")
    for annotation in test["annotations"]:
        annotation["image_id"] += 69
    test["images"][0]["file_name"] = "./1.png"
    first, second = registered(_dataset(), test, "--no-decode")
    assert first == []
    (problem,) = (p for p in second if p["kind"] == "image-shared")
    assert problem["severity"] == W
    assert problem["image_id"] == 70
    assert "1 of 3 images are also in 'mrcnn_ext_test_a'" in problem["message"]


def test_sets_without_annotations(registered, capsys):
    train, test = _dataset(), _dataset()
    del test["annotations"]
    test["images"][1]["file_name"] = "none.png"
    _, found = registered(train, test)
    kinds = {(p["severity"], p["kind"]) for p in found} - {(W, "image-shared")}
    assert kinds == {(W, "annotations-none"), (E, "image-missing")}
    train["annotations"] = []
    found, _ = registered(train, test)
    assert {(p["severity"], p["kind"]) for p in found} == {(E, "config-no-annotations")}


def test_text_ids_of_annotations_need_our_evaluator(registered):
    data = _dataset()
    for annotation in data["annotations"]:
        annotation["id"] = f"b3f1-{annotation['id']:04x}"
    cfg = default_config()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    (problem,) = check_with_config(data, cfg)
    assert (problem.severity, problem.kind) == (E, "config-annotation-ids")
    assert "MRCNN_EXT.EVALUATION.ENABLED" in problem.message
    cfg.MODEL.META_ARCHITECTURE = "MrcnnExtRCNN"
    (problem,) = check_with_config(data, cfg)
    assert (problem.severity, problem.kind) == (W, "config-annotation-ids")
    assert "takes its place" in problem.message
    cfg.MRCNN_EXT.EVALUATION.ENABLED = True
    assert check_with_config(data, cfg) == []
