# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Hand-written files of each format become COCO with the masks that were drawn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from mrcnn_ext.coco.rle import to_rle
from mrcnn_ext.data.check import check_coco_json
from mrcnn_ext.data.convert.__main__ import main
from mrcnn_ext.data.convert.brush import decode_brush
from mrcnn_ext.data.convert.builder import Builder, Shape
from mrcnn_ext.errors import ConfigError, DataError

from .convert_cases import (
    HEIGHT,
    RING,
    SQUARE,
    WIDTH,
    block,
    class_of,
    convert,
    cvat,
    masks_of,
    pack_brush,
    picture,
    png_base64,
    row_runs,
    write,
)

SQUARE_POINTS = [[5, 6], [15, 6], [15, 20], [5, 20]]


def _only_mask(content: dict, expected: np.ndarray) -> dict:
    (mask,), (annotation,) = masks_of(content), content["annotations"]
    np.testing.assert_array_equal(mask, expected)
    assert annotation["area"] == expected.sum()
    ys, xs = np.nonzero(expected)
    x, y = int(xs.min()), int(ys.min())
    assert annotation["bbox"] == [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y]
    return annotation


# ------------------------------------------------------------------------------------------- YOLO


def _yolo(tmp_path, lines: str, more: str = ""):
    picture(tmp_path / "yolo" / "images" / "train", "a.png")
    picture(tmp_path / "yolo" / "images" / "train", "b.png")
    write(tmp_path / "yolo" / "labels" / "train" / "a.txt", lines)
    yaml = f"path: /elsewhere\ntrain: images/train\nnames:\n  0: cat\n  1: dog\n{more}"
    return write(tmp_path / "yolo" / "data.yaml", yaml)


def test_yolo_outlines_and_boxes(tmp_path):
    points = " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in SQUARE_POINTS)
    file = _yolo(tmp_path, f"1 {points}\n\n0 0.5 0.5 0.25 0.5\n")
    content, builder = convert("yolo", file, tmp_path)
    assert [c["name"] for c in content["categories"]] == ["cat", "dog"]
    assert [i["file_name"] for i in content["images"]] == [
        "images/train/a.png",
        "images/train/b.png",
    ]
    dog, cat = content["annotations"]
    assert class_of(content, dog) == "dog"
    np.testing.assert_array_equal(masks_of(content)[0], SQUARE)
    assert cat["bbox"] == [15, 7.5, 10, 15]
    assert "segmentation" not in cat
    assert not builder.lost
    problems = check_coco_json(tmp_path / "out" / "data.json", tmp_path / "yolo")
    # Masks and boxes mixed are the only thing to say.
    assert {p.kind for p in problems if p.severity == "error"} == {"segmentation-missing"}


def test_yolo_keypoints(tmp_path):
    more = "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\nkpt_names: {0: [nose, wing_a, wing_b]}\n"
    file = _yolo(tmp_path, "0 0.5 0.5 0.5 0.5 0.5 0.5 2 0.25 0.1 1 0 0 0", more)
    content, _ = convert("yolo", file.parent, tmp_path)
    (annotation,) = content["annotations"]
    assert annotation["keypoints"] == [20, 15, 2, 10, 3, 1, 0, 0, 0]
    assert annotation["num_keypoints"] == 2
    assert content["categories"][0]["keypoints"] == ["nose", "wing_a", "wing_b"]
    assert content["categories"][0]["flip_map"] == [["wing_a", "wing_b"]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"a\.txt, line 1: the class is 2, expected 0 … 1"),
        ("0 0.5 0.5 0.1 0.1\n0 0.1 0.2 0.3", r"line 2: there are 3 values"),
        ("0 5 5 30 30", r"outside 0 … 1"),
        ("0 0.5 nan 0.1 0.1", r"a value is 'nan', expected a number"),
        ("cat 0.5 0.5 0.1 0.1", r"the class is 'cat'"),
    ],
)
def test_broken_yolo(tmp_path, lines, message):
    file = _yolo(tmp_path, lines)
    with pytest.raises(DataError, match=message):
        convert("yolo", file, tmp_path)
    assert not (tmp_path / "out" / "data.json").exists()


def test_yaml_that_would_run_code_is_refused(tmp_path):
    file = _yolo(tmp_path, "", "evil: !!python/object/apply:os.system ['false']\n")
    with pytest.raises(ConfigError, match=r"line 6: the tag .* is not read"):
        convert("yolo", file, tmp_path)


# ---------------------------------------------------------------------------------------- labelme


def _labelme(tmp_path, *shapes: dict, **more):
    picture(tmp_path / "labelme")
    content = {"version": "5.5.0", "flags": {"night": True, "rain": False}, "shapes": list(shapes)}
    content |= {"imagePath": "a.png", "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    return write(tmp_path / "labelme" / "a.json", content | more).parent


def _shape(kind: str, points: list, label: str = "cat", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None} | more


def test_labelme_polygon_with_its_flags(tmp_path):
    folder = _labelme(
        tmp_path, _shape("polygon", SQUARE_POINTS, flags={"old": True}, description="x")
    )
    content, builder = convert("labelme", folder, tmp_path)
    annotation = _only_mask(content, SQUARE)
    assert annotation["attributes"] == {"old": True, "description": "x"}
    assert content["images"][0]["attributes"] == {"night": True}
    assert not builder.lost


def test_labelme_mask_keeps_its_hole(tmp_path):
    mask = _shape("mask", [[20, 5], [34, 24]], mask=png_base64(RING[5:25, 20:35]))
    content, _ = convert("labelme", _labelme(tmp_path, mask), tmp_path)
    annotation = _only_mask(content, RING)
    assert isinstance(annotation["segmentation"], dict)


def test_labelme_group_is_one_object_with_keypoints(tmp_path):
    folder = _labelme(
        tmp_path,
        _shape("polygon", SQUARE_POINTS, group_id=7, flags={"iscrowd": False}),
        _shape("rectangle", [[30, 25], [20, 22]], group_id=7),
        _shape("point", [[8, 9]], "left_eye", group_id=7),
        _shape("point", [[12, 9]], "right_eye", group_id=7, flags={"occluded": True}),
        _shape("point", [[1, 1]], "stray"),
        _shape("linestrip", [[1, 1], [2, 2]]),
    )
    content, builder = convert("labelme", folder, tmp_path, boxes_as_masks=True)
    (annotation,) = content["annotations"]
    np.testing.assert_array_equal(masks_of(content)[0], SQUARE | block(20, 22, 30, 25))
    assert annotation["keypoints"] == [8, 9, 2, 12, 9, 1]
    assert content["categories"][0]["keypoints"] == ["left_eye", "right_eye"]
    assert content["categories"][0]["flip_map"] == [["left_eye", "right_eye"]]
    assert builder.lost.content()["polylines"]["count"] == 1
    assert builder.lost.content()["points without a group"]["examples"] == [
        f"{folder / 'a.json'}: shapes[4]"
    ]


def test_labelme_circle_has_its_area(tmp_path):
    content, _ = convert(
        "labelme", _labelme(tmp_path, _shape("circle", [[20, 15], [30, 15]])), tmp_path
    )
    assert masks_of(content)[0].sum() == pytest.approx(math.pi * 100, rel=0.02)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (_shape("polygon", [[1, 2], [3]]), r"shapes\[0\]: points has \[3\]"),
        (_shape("mask", [[0, 0], [3, 3]], mask="no"), r"shapes\[0\]: mask is no PNG"),
        (_shape("hexagon", [[0, 0]]), r"shape_type is 'hexagon'"),
        (_shape("polygon", SQUARE_POINTS, label=None), r"label is None, expected a text"),
        (_shape("circle", [[0, 0]]), r"a circle has 1 points"),
    ],
)
def test_broken_labelme(tmp_path, shape, message):
    with pytest.raises(DataError, match=message):
        convert("labelme", _labelme(tmp_path, shape), tmp_path)


def test_size_that_the_picture_has_not_is_one_error(tmp_path):
    folder = _labelme(tmp_path, imageHeight=WIDTH, imageWidth=HEIGHT)
    with pytest.raises(DataError, match=r"a\.png has 40 x 30 pixels, the file says 30 x 40"):
        convert("labelme", folder, tmp_path)


# -------------------------------------------------------------------------------------------- VIA


def test_via_shapes_and_attributes(tmp_path):
    picture(tmp_path / "images")
    outlines = [
        {"name": "polygon", "all_points_x": [5, 15, 15, 5], "all_points_y": [6, 6, 20, 20]},
        {"name": "rect", "x": 2, "y": 3, "width": 4, "height": 5},
        {"name": "ellipse", "cx": 20, "cy": 15, "rx": 10, "ry": 5, "theta": math.pi / 2},
        {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]},
        {"name": "point", "cx": 7, "cy": 8},
    ]
    classes = ["cat", "cat", "cat", "cat", "tail"]
    regions = [
        {
            "shape_attributes": o,
            "region_attributes": {"Type": c, "who": str(i), "tags": {"a": True}},
        }
        for i, (o, c) in enumerate(zip(outlines, classes))
    ]
    regions[0]["region_attributes"]["part of"] = regions[4]["region_attributes"]["part of"] = "1"
    content = {"a.png123": {"filename": "a.png", "size": 123, "regions": regions}}
    source = write(tmp_path / "via.json", {"_via_img_metadata": content, "_via_settings": {}})
    found, builder = convert(
        "via", source, tmp_path, images=tmp_path / "images", group_attribute="part of"
    )
    polygon, rect, ellipse = found["annotations"]
    square, oval = masks_of(found)
    np.testing.assert_array_equal(square, SQUARE)
    assert polygon["keypoints"] == [7, 8, 2]
    assert rect["bbox"] == [2, 3, 4, 5]
    assert rect["attributes"] == {"who": "1", "tags": ["a"]}
    assert oval.sum() == pytest.approx(math.pi * 50, rel=0.05)
    assert ellipse["bbox"] == pytest.approx([15, 5, 10, 20], abs=0.2)  # turned by 90 degrees
    assert list(builder.lost.content()) == ["polylines"]


def test_via_asks_for_the_class_attribute_and_the_images(tmp_path):
    picture(tmp_path / "images")
    region = {"shape_attributes": {"name": "rect"}, "region_attributes": {"a": "1", "b": "2"}}
    source = write(tmp_path / "via.json", {"k": {"filename": "a.png", "regions": {"0": region}}})
    with pytest.raises(DataError, match="--class-attribute"):
        convert("via", source, tmp_path)
    with pytest.raises(DataError, match="name its folder with --images"):
        convert("via", source, tmp_path, class_attribute="a")
    with pytest.raises(DataError, match=r"regions\[0\]: x is None, expected a number"):
        convert("via", source, tmp_path, class_attribute="a", images=tmp_path / "images")


# -------------------------------------------------------------------------------------------- VOC


def _voc(tmp_path, *objects: str):
    picture(tmp_path / "voc" / "JPEGImages")
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    text = f"<annotation><filename>a.png</filename>{size}{''.join(objects)}</annotation>"
    write(tmp_path / "voc" / "Annotations" / "a.xml", text)
    return tmp_path / "voc"


def _object(x0, y0, x1, y1, name="person", more="") -> str:
    box = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def test_voc_boxes_are_numbered_from_one(tmp_path):
    part = "<part><name>head</name></part><difficult>1</difficult><pose>Left</pose>"
    content, builder = convert("voc", _voc(tmp_path, _object(6, 7, 15, 20, more=part)), tmp_path)
    (annotation,) = content["annotations"]
    assert annotation["bbox"] == [5, 6, 10, 14]
    assert annotation["attributes"] == {"difficult": 1, "pose": "Left"}
    assert list(builder.lost.content()) == ["parts of objects"]


def test_voc_from_zero_is_told_by_a_box(tmp_path):
    source = _voc(tmp_path, _object(0, 6, 15, 20), _object(5, 6, 15, 20))
    content, _ = convert("voc", source, tmp_path)
    assert [a["bbox"] for a in content["annotations"]] == [[0, 6, 15, 14], [5, 6, 10, 14]]


def test_voc_masks_go_to_their_boxes(tmp_path):
    # The second value of the picture is the first object's: boxes decide.
    source = _voc(tmp_path, _object(21, 6, 35, 25, "cat"), _object(6, 7, 15, 20, "dog"))
    ids = np.where(SQUARE, 1, np.where(RING, 2, 0)).astype(np.uint8)
    ids[0, :5] = 255
    ids[27:, :4] = 9
    classes = np.zeros_like(ids)
    classes[27:, :4] = 15
    for folder, values in (("SegmentationObject", ids), ("SegmentationClass", classes)):
        (source / folder).mkdir()
        Image.fromarray(values).save(source / folder / "a.png")
    content, builder = convert("voc", source, tmp_path)
    cat, dog, person = masks_of(content)
    np.testing.assert_array_equal(cat, RING)
    np.testing.assert_array_equal(dog, SQUARE)
    assert person.sum() == 12
    names = [class_of(content, a) for a in content["annotations"]]
    assert names == ["cat", "dog", "person"]
    assert list(builder.lost.content()) == [
        "images with void pixels, which belong to no object here"
    ]


# ------------------------------------------------------------------------------------------ masks


def test_masks_of_ids_with_classes(tmp_path):
    picture(tmp_path / "images", "a.jpg")
    ids = np.where(SQUARE, 1001, np.where(RING, 2000, 0)).astype(np.uint16)
    ids[0, 0] = 65535
    (tmp_path / "masks").mkdir()
    Image.fromarray(ids).save(tmp_path / "masks" / "a_mask.png")
    content, builder = convert(
        "masks", tmp_path / "masks", tmp_path, images=tmp_path / "images",
        classes=["road", "car", "tree"], class_divisor=1000, ignore=[65535],
    )  # fmt: skip
    car, tree = content["annotations"]
    assert [class_of(content, a) for a in (car, tree)] == ["car", "tree"]
    assert (car["iscrowd"], tree["iscrowd"]) == (0, 1)
    for mask, expected in zip(masks_of(content), (SQUARE, RING)):
        np.testing.assert_array_equal(mask, expected)
    assert builder.lost


def test_masks_of_colours(tmp_path):
    picture(tmp_path / "images", "a.jpg")
    colours = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    colours[SQUARE], colours[RING] = (255, 0, 0), (0, 1, 0)
    (tmp_path / "masks").mkdir()
    Image.fromarray(colours).save(tmp_path / "masks" / "a.png")
    content, _ = convert("masks", tmp_path / "masks", tmp_path, images=tmp_path / "images")
    ring, square = masks_of(content)
    np.testing.assert_array_equal(ring, RING)
    np.testing.assert_array_equal(square, SQUARE)


def test_masks_of_a_file_for_each_instance_beside_images(tmp_path):
    # As the Data Science Bowl 2018 has its nuclei.
    root = tmp_path / "stage1"
    picture(root / "a" / "images")
    for name, mask in (("x1", SQUARE), ("x2", RING)):
        file = root / "a" / "masks" / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(file)
    content, _ = convert("masks", root, tmp_path, images=None, classes=["nucleus"])
    assert [i["file_name"] for i in content["images"]] == ["a/images/a.png"]
    for mask, expected in zip(masks_of(content), (SQUARE, RING)):
        np.testing.assert_array_equal(mask, expected)


def test_class_pattern(tmp_path):
    picture(tmp_path / "images", "a.jpg")
    file = tmp_path / "masks" / "cat" / "a_1.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(SQUARE).save(file)
    options = {"images": tmp_path / "images", "kind": "files"}
    content, _ = convert(
        "masks", tmp_path / "masks", tmp_path, **options, class_pattern="(?P<class>.+)/"
    )
    assert content["categories"][0]["name"] == "cat"
    with pytest.raises(DataError, match="does not match"):
        convert("masks", tmp_path / "masks", tmp_path, **options, class_pattern="(?P<class>x)/")


# ------------------------------------------------------------------------------------------- CVAT


def test_cvat_shapes(tmp_path):
    hand = (
        '<skeleton label="hand" z_order="2"><attribute name="age">3</attribute>'
        '<points label="right_tip" occluded="1" outside="0" points="4,5"/>'
        '<points label="left_tip" occluded="0" outside="1" points="1,1"/></skeleton>'
    )
    shapes = (
        '<polygon label="part" occluded="1" points="5,6;15,6;15,20;5,20" group_id="3">'
        '<attribute name="is_crowd">false</attribute><attribute name="wet">true</attribute></polygon>'
        f'<mask label="part" occluded="0" left="20" top="5" width="15" height="20" group_id="0" '
        f'rle="{row_runs(RING[5:25, 20:35])}"/>'
        '<box label="part" xtl="1" ytl="2" xbr="5" ybr="4" rotation="90"/>'
        '<polyline label="part" points="1,1;2,2"/><tag label="night"/>'
        '<polygon label="part" points="30,26;34,26;34,29;30,29" group_id="3"/>'
    )
    source = write(tmp_path / "cvat" / "annotations.xml", cvat(shapes + hand))
    content, builder = convert("cvat", source, tmp_path)
    part, mask, box, skeleton = content["annotations"]
    square, ring = masks_of(content)
    np.testing.assert_array_equal(square, SQUARE | block(30, 26, 34, 29))
    np.testing.assert_array_equal(ring, RING)
    assert part["attributes"] == {"occluded": True, "wet": True}
    assert isinstance(mask["segmentation"], dict)
    assert box["bbox"] == pytest.approx([2, 1, 2, 4])  # turned around its centre
    assert box["attributes"]["rotation"] == 90
    assert skeleton["keypoints"] == [0, 0, 0, 4, 5, 1]
    assert skeleton["attributes"] == {"z_order": 2, "age": "3"}
    hand_class = content["categories"][1]
    assert hand_class["keypoints"] == ["left_tip", "right_tip"]
    assert hand_class["skeleton"] == [[1, 2]]
    assert content["images"][0]["attributes"] == {"tags": ["night"]}
    assert builder.lost.content() == {
        "polylines": {"count": 1, "examples": [f"{source}: image a.png, polyline 4"]}
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cvat('<mask label="part" left="0" top="0" width="2" height="2" rle="3"/>'), "add up to 3"),
        (cvat('<mask label="part" left="39" top="0" width="2" height="2" rle="4"/>'), "not within"),
        (cvat('<polygon label="part" points="1,x;2,2"/>'), "points is 'x'"),
        (cvat('<box label="part" xtl="1"/>'), "ytl is None"),
        (cvat("", tail="<track/>"), "CVAT for video"),
        (cvat("")[:-20], "is no valid xml"),
        ("<html/>", "root is <html>"),
        (cvat("", head='<!DOCTYPE a [<!ENTITY b "c">]>'), r"line 1: a document type definition"),
        ("<a>" * 200, "more than 100 elements"),
    ],
)
def test_broken_cvat(tmp_path, text, message):
    source = write(tmp_path / "cvat" / "annotations.xml", text)
    with pytest.raises(DataError, match=message) as caught:
        convert("cvat", source, tmp_path)
    assert str(source) in str(caught.value)


# ----------------------------------------------------------------------------------- Label Studio


def _result(kind: str, number: str, value: dict, **more) -> dict:
    sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": number, "type": kind, "from_name": "tag", "to_name": "img", "value": value} | (
        sizes | more
    )


def _task(*results: dict, **more) -> dict:
    data = {"image": "/data/upload/1/0123abcd-a.png"}
    return {"id": 5, "data": data, "annotations": [{"id": 1, "result": list(results)}]} | more


def _percent(points) -> list:
    return [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in points]


def test_label_studio_shapes(tmp_path):
    picture(tmp_path / "images")
    box = {"x": 25, "y": 20, "width": 50, "height": 10}  # pixels 10, 6, 20, 3
    tip = {"x": 27.5, "y": 21, "width": 1}
    results = [
        _result(
            "polygonlabels", "p", {"points": _percent(SQUARE_POINTS), "polygonlabels": ["cat"]}
        ),
        _result("choices", "p", {"choices": ["wet"]}, from_name="state"),
        _result(
            "brushlabels", "b", {"format": "rle", "rle": pack_brush(RING), "brushlabels": ["dog"]}
        ),
        _result("rectangle", "r", {**box, "rotation": 90}),
        _result("labels", "r", {**box, "labels": ["cat", "big"]}),
        _result("keypointlabels", "k", {**tip, "keypointlabels": ["tip"]}, parentID="r"),
        _result("keypointlabels", "q", {"x": 99, "y": 99, "keypointlabels": ["tip"]}),
        _result("choices", "whole", {"choices": ["day"]}, from_name="light"),
    ]
    cancelled = {"result": [], "was_cancelled": True}
    task = _task(*results)
    task["annotations"] = [cancelled, *task["annotations"], {"result": []}]
    source = write(tmp_path / "ls.json", [task])
    content, builder = convert("label-studio", source, tmp_path, images=tmp_path / "images")
    polygon, brush, turned = content["annotations"]
    square, ring = masks_of(content)
    np.testing.assert_array_equal(square, SQUARE)
    np.testing.assert_array_equal(ring, RING)
    assert [class_of(content, a) for a in (polygon, brush)] == ["cat", "dog"]
    assert polygon["attributes"] == {"state": "wet"}
    assert turned["bbox"] == pytest.approx([7, 6, 3, 20])  # around its upper left corner
    assert turned["attributes"]["further_labels"] == ["big"]
    assert turned["keypoints"] == pytest.approx([11, 6.3, 2])
    assert content["images"][0] | {"id": 1} == {
        "id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT, "attributes": {"light": "day"},
    }  # fmt: skip
    assert set(builder.lost.content()) == {
        "further annotations of a task",
        "further labels of a region (kept as the attribute further_labels)",
        "keypoints in no region, without parent or relation",
    }


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (_result("brushlabels", "b", {"rle": [1, 2], "brushlabels": ["a"]}), "breaks off"),
        (
            _result("brushlabels", "b", {"rle": pack_brush(RING)[:-9], "brushlabels": ["a"]}),
            "breaks",
        ),
        (_result("brushlabels", "b", {"rle": [999], "brushlabels": ["a"]}), "no list of bytes"),
        (_result("rectanglelabels", "b", {"x": 1, "rectanglelabels": ["a"]}), "y is None"),
        (_result("polygonlabels", "b", {"points": 3, "polygonlabels": ["a"]}), "expected a list"),
    ],
)
def test_broken_label_studio(tmp_path, result, message):
    source = write(tmp_path / "ls.json", [_task(result)])
    with pytest.raises(DataError, match=message) as caught:
        convert("label-studio", source, tmp_path)
    assert "task 5, region b" in str(caught.value)


def test_brush_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"rle has 4800 values, expected 4920"):
        decode_brush(pack_brush(RING), WIDTH + 1, HEIGHT)


# -------------------------------------------------------------------------------- what all share


def test_keypoints_have_the_order_that_is_given(tmp_path):
    body = _shape("polygon", SQUARE_POINTS, group_id=1)
    folder = _labelme(tmp_path, body, _shape("point", [[8, 9]], "tail", group_id=1))
    content, _ = convert("labelme", folder, tmp_path, keypoints=["nose", "tail"])
    assert content["categories"][0]["keypoints"] == ["nose", "tail"]
    assert content["annotations"][0]["keypoints"] == [0, 0, 0, 8, 9, 2]
    with pytest.raises(DataError, match="class 'cat' has the keypoint 'tail' besides those given"):
        convert("labelme", folder, tmp_path, keypoints=["nose"])


def test_shape_outside_its_image_is_lost_and_parts_are_cut():
    builder = Builder()
    image = builder.image("a.png", WIDTH, HEIGHT, "here")
    builder.add(image, Shape("a", "out", box=(50.0, 0.0, 5.0, 5.0)))
    builder.add(image, Shape("a", "in", box=(-3.0, 2.0, 5.0, 5.0)))
    builder.add(image, Shape("a", "line", polygons=[[1, 1, 2, 2]]))
    (annotation,) = builder.finish()["annotations"]
    assert annotation["bbox"] == [0, 2, 2, 5]
    assert builder.lost.content()["objects outside their image"]["examples"] == ["out"]


def test_crowds_are_runs(tmp_path):
    folder = _labelme(tmp_path, _shape("polygon", SQUARE_POINTS, flags={"iscrowd": True}))
    content, _ = convert("labelme", folder, tmp_path)
    (annotation,) = content["annotations"]
    assert annotation["iscrowd"] == 1
    assert isinstance(annotation["segmentation"], dict)  # COCO's evaluation wants RLE of a crowd
    assert "attributes" not in annotation
    assert to_rle(annotation["segmentation"], HEIGHT, WIDTH)


def test_command(tmp_path, capsys):
    folder = _labelme(tmp_path, _shape("line", [[1, 1], [2, 2]]), _shape("polygon", SQUARE_POINTS))
    out = tmp_path / "data.json"
    assert main(["labelme", str(folder), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "1 images, 1 objects of 1 classes (1 polygons)" in text
    assert f"1 lines: {folder / 'a.json'}: shapes[0]" in text
    assert json.loads((tmp_path / "data.json.lost.json").read_text())["lines"]["count"] == 1
    assert main(["labelme", str(folder), "--out", str(out), "--strict"]) == 1
    assert main(["labelme", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
    for wrong in (["labelmee", "x"], ["x"], ["--to", "voc", "a", "b"]):
        with pytest.raises(SystemExit):
            main([*wrong, "--out", str(out)])
