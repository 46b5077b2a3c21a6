# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""COCO to another format and back: what is kept, and what is said to be lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_util

from mrcnn_ext.coco.rle import encode_mask, text_rle, to_rle
from mrcnn_ext.data.convert import Options, convert_from_coco, convert_to_coco
from mrcnn_ext.data.convert.__main__ import main
from mrcnn_ext.data.convert.geometry import ellipse, keyhole, mask_rings
from mrcnn_ext.data.convert.readers.masks import read_masks
from mrcnn_ext.errors import DataError

from .convert_cases import HEIGHT, RING, SQUARE, WIDTH, block, masks_of, picture, write

SLAB = block(1, 22, 15, 28) | block(17, 22, 19, 28)
KEYPOINTS = ["nose", "left_eye", "right_eye"]


def _coco(tmp_path, *, points: bool = True):
    """Two images; polygons of two parts, a mask with a hole, a crowd, keypoints, attributes."""
    categories = [{"id": 3, "name": "cat"}, {"id": 8, "name": "big dog/ü.x"}]
    parts = [[1, 22, 15, 22, 15, 28, 1, 28], [17, 22, 19, 22, 19, 28, 17, 28]]
    base = {"image_id": 1, "iscrowd": 0}
    annotations = [
        {"category_id": 3, "segmentation": [[5, 6, 15, 6, 15, 20, 5, 20]], "bbox": [5, 6, 10, 14]},
        {"category_id": 8, "segmentation": text_rle(encode_mask(RING)), "bbox": [20, 5, 15, 20]},
        {"category_id": 3, "segmentation": parts, "bbox": [1, 22, 18, 6]},
        {"category_id": 8, "bbox": [3, 4, 5, 6], "image_id": 2, "attributes": {"truncated": 1}},
    ]
    if points:
        categories[0] |= {"keypoints": KEYPOINTS, "skeleton": []}
        annotations[0] |= {"keypoints": [7, 8, 2, 9, 9.5, 1, 0, 0, 0], "num_keypoints": 2}
        annotations[2] |= {"iscrowd": 1, "segmentation": text_rle(encode_mask(SLAB))}
    annotations = [{"id": i, **base, **a} for i, a in enumerate(annotations, 1)]
    size = {"width": WIDTH, "height": HEIGHT}
    images = [{"id": 1, "file_name": "a.png", **size}, {"id": 2, "file_name": "b.png", **size}]
    for image in images:
        picture(tmp_path / "images", image["file_name"])
    content = {"images": images, "categories": categories, "annotations": annotations}
    return write(tmp_path / "data.json", content)


def _there_and_back(tmp_path, name: str, *, points: bool = False, **options):
    source, images = _coco(tmp_path, points=points), tmp_path / "images"
    _, target = convert_from_coco(name, source, tmp_path / name, images=images)
    out = tmp_path / "back.json"
    _, builder = convert_to_coco(name, tmp_path / name, out, Options(images=images, **options))
    return json.loads(out.read_text()), target.lost.content(), builder.lost


def _are_equal(masks: list, expected: list) -> None:
    assert len(masks) == len(expected)
    for mask, other in zip(masks, expected):
        np.testing.assert_array_equal(mask, other)


def _names(content: dict) -> list[str]:
    names = {c["id"]: c["name"] for c in content["categories"]}
    return [names[a["category_id"]] for a in content["annotations"]]


def test_labelme_keeps_everything(tmp_path):
    content, lost, back = _there_and_back(tmp_path, "labelme", points=True)
    assert not lost
    assert not back
    _are_equal(masks_of(content), [SQUARE, RING, SLAB])
    assert _names(content) == ["cat", "big dog/ü.x", "cat", "big dog/ü.x"]
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 0, 1, 0]
    first, *_, last = content["annotations"]
    assert first["keypoints"] == [7, 8, 2, 9, 9.5, 1]  # only those that a file names come back
    assert last["bbox"] == [3, 4, 5, 6]
    assert last["attributes"] == {"truncated": 1}


def test_masks_keep_masks_classes_and_crowds(tmp_path):
    content, lost, _ = _there_and_back(tmp_path, "masks", points=True, kind="files")
    _are_equal(masks_of(content), [SQUARE, RING, SLAB])
    assert _names(content) == ["cat", "big dog/ü.x", "cat"]
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 0, 1]
    assert {k: v["count"] for k, v in lost.items()} == {
        "attributes of objects": 1,
        "keypoints": 1,
        "objects with a box only": 1,
    }
    assert len(content["images"]) == 2


def test_yolo_keeps_holes_and_parts(tmp_path):
    content, lost, back = _there_and_back(tmp_path, "yolo")
    assert not back
    _are_equal(masks_of(content), [SQUARE, RING, SLAB])
    assert _names(content) == ["cat", "big dog/ü.x", "cat", "big dog/ü.x"]
    assert content["annotations"][3]["bbox"] == pytest.approx([3, 4, 5, 6])
    assert list(lost) == ["attributes of objects"]
    assert (tmp_path / "yolo" / "images" / "a.png").is_file()


def test_yolo_keypoints(tmp_path):
    source = _coco(tmp_path)
    content = json.loads(source.read_text())
    content["categories"] = content["categories"][:1]
    content["annotations"] = content["annotations"][:1]
    write(source, content)
    _, target = convert_from_coco("yolo", source, tmp_path / "yolo", images=tmp_path / "images")
    assert [k[:5] for k in target.lost.content()] == ["masks"]
    convert_to_coco("yolo", tmp_path / "yolo", tmp_path / "back.json")
    back = json.loads((tmp_path / "back.json").read_text())
    assert back["annotations"][0]["keypoints"] == pytest.approx([7, 8, 2, 9, 9.5, 1, 0, 0, 0])
    assert back["categories"][0]["keypoints"] == KEYPOINTS
    assert back["categories"][0]["flip_map"] == [["left_eye", "right_eye"]]


def test_voc_keeps_masks_boxes_and_its_own_flags(tmp_path):
    content, lost, _ = _there_and_back(tmp_path, "voc")
    _are_equal(masks_of(content), [SQUARE, RING, SLAB])
    boxes = [a["bbox"] for a in content["annotations"]]
    assert boxes == [[5, 6, 10, 14], [20, 5, 15, 20], [1, 22, 18, 6], [3, 4, 5, 6]]
    assert content["annotations"][3]["attributes"] == {"truncated": 1}
    assert not lost


def test_voc_says_what_a_pixel_cannot_hold(tmp_path):
    source = _coco(tmp_path, points=True)
    content = json.loads(source.read_text())
    content["annotations"][0]["segmentation"] = [[0, 0, 40, 0, 40, 30, 0, 30]]
    write(source, content)
    _, target = convert_from_coco("voc", source, tmp_path / "voc")
    assert {k.split(":")[0] for k in target.lost.content()} == {
        "crowds",
        "keypoints",
        "objects whose masks overlap others",
    }


def test_nothing_is_half_written(tmp_path):
    source = _coco(tmp_path)
    content = json.loads(source.read_text())
    content["annotations"][1]["segmentation"]["counts"] = "0"
    write(source, content)
    with pytest.raises(DataError, match=r"image a\.png, annotation 2: its runs do not fill"):
        convert_from_coco("masks", source, tmp_path / "masks")
    content["images"][0]["file_name"] = "../a.png"
    write(source, content)
    with pytest.raises(DataError, match=r"image 1: its file_name is '\.\./a\.png'"):
        convert_from_coco("masks", source, tmp_path / "masks")
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["data.json", "images"]


def test_a_folder_with_files_is_left_alone(tmp_path, capsys):
    source = _coco(tmp_path)
    assert main(["--to", "labelme", str(source), "--out", str(tmp_path / "images")]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert main(["--to", "labelme", str(source), "--out", str(tmp_path / "new")]) == 0
    assert "nothing was lost" in capsys.readouterr().out


# ------------------------------------------------------------------------------------- outlines

MASKS = arrays(bool, (7, 8), elements=st.booleans())


@given(MASKS)
@settings(max_examples=60, deadline=None)
def test_rings_of_any_mask_give_it_again(mask):
    """By parity over all rings; and by pycocotools, for each outline with its holes."""
    filled = np.zeros(mask.shape, dtype=np.uint8)
    for ring, holes in mask_rings(mask):
        for outline in (ring, *holes):
            filled ^= mask_util.decode(to_rle([outline.ravel().tolist()], *mask.shape))
    np.testing.assert_array_equal(filled > 0, mask)


@given(MASKS)
@settings(max_examples=60, deadline=None)
def test_keyholes_of_any_mask_give_it_again(mask):
    outlines = [keyhole(ring, holes).ravel().tolist() for ring, holes in mask_rings(mask)]
    found = mask_util.decode(to_rle(outlines, *mask.shape)) > 0
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("radius", [0.5, 3, 40, 400])
def test_ellipse_has_the_area_and_stays_near(radius):
    points = np.reshape(ellipse(0, 0, radius, radius, 30), (-1, 2))
    x, y = points.T
    area = abs((x * np.roll(y, 1) - y * np.roll(x, 1)).sum()) / 2
    assert area == pytest.approx(np.pi * radius**2, rel=1e-9)
    middles = (points + np.roll(points, 1, axis=0)) / 2
    for place in (points, middles):
        assert np.abs(np.hypot(*place.T) - radius).max() <= 0.05


def test_ids_and_a_file_each_agree(tmp_path):
    """The same masks as one picture of ids and as a file for each."""
    from PIL import Image

    picture(tmp_path / "images", "a.jpg")
    folders = tmp_path / "ids", tmp_path / "files"
    for folder in folders:
        (folder / "a").mkdir(parents=True)
    ids = np.where(SQUARE, 3, np.where(RING, 7, 0)).astype(np.uint8)
    Image.fromarray(ids).save(folders[0] / "a.png")
    for number, mask in ((1, SQUARE), (2, RING)):
        Image.fromarray(mask).save(folders[1] / "a" / f"{number}.png")
    first, second = (read_masks(f, Options(images=tmp_path / "images")).finish() for f in folders)
    assert first == second
