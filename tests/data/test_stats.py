# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from mrcnn_ext.coco.rle import encode_mask, text_rle
from mrcnn_ext.data.stats import (
    anchor_fit,
    measure,
    pixel_statistics,
    resized,
    suggest_anchors,
    summarize,
)
from mrcnn_ext.data.stats.__main__ import main
from mrcnn_ext.errors import DataError


def _content() -> dict:
    mask = np.zeros((50, 100), dtype=bool)
    mask[10:30, 20:60] = True
    entries = [
        {"image_id": 1, "category_id": 2, "segmentation": text_rle(encode_mask(mask))},
        {"image_id": 1, "category_id": 2, "bbox": [20, 10, 40, 10], "area": 100},
        {"image_id": 1, "category_id": 4, "bbox": [20, 10, 40, 20],
         "segmentation": [[20, 10, 60, 10, 60, 30]]},
        {"image_id": 1, "category_id": 4, "bbox": [0, 0, 100, 50], "iscrowd": 1},
        {"image_id": 2, "category_id": 2, "bbox": [5, 5, 10, 30], "keypoints": [1, 1, 2, 0, 0, 0]},
    ]  # fmt: skip
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 50, "width": 100},
            {"id": 2, "file_name": "b.png", "height": 60, "width": 40},
            {"id": 3, "file_name": "c.png", "height": 60, "width": 40},
        ],
        "categories": [
            {"id": 4, "name": "late"},
            {"id": 2, "name": "early", "keypoints": ["x", "y"]},
        ],
        "annotations": [{"id": i, **entry} for i, entry in enumerate(entries)],
    }


def test_measured_numbers():
    found = measure(_content(), "here")
    assert found.names == ["early", "late"]
    assert found.crowds == 1
    assert found.label_of.tolist() == [0, 0, 1, 0]
    assert found.kind_of.tolist() == ["RLE", "", "polygons", ""]
    assert found.boxes[0].tolist() == [20, 10, 40, 20]  # of the mask
    assert found.areas.tolist() == pytest.approx([800, 100, 400, 300], abs=25)
    assert found.overlap.tolist() == [1, 0.5, 1, 0]
    assert found.overlap_same.tolist() == [0.5, 0.5, 0, 0]
    assert found.keypoints.tolist() == [0, 0, 0, 1]
    assert found.skeletons == {"early": ["x", "y"]}
    summary = summarize(found, 100, 150)
    assert summary["images_without_objects"] == 1
    assert summary["boxes_only"] == 2
    assert summary["overlap"]["same_class_0.5"] == 0.5
    assert summary["classes"][0] | {"median_size": 0} == {
        "name": "early", "objects": 3, "images": 2, "share": 0.75, "median_size": 0,
    }  # fmt: skip
    json.dumps(summary)


def test_overlaps_of_very_many_boxes_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 60, (600, 2)), rng.uniform(1, 30, (600, 2))], axis=1)
    labels = rng.integers(0, 2, 600)
    content = _content()
    content["annotations"] = [
        {"id": i, "image_id": 2, "category_id": (2, 4)[k], "bbox": box}
        for i, (box, k) in enumerate(zip(boxes.tolist(), labels))
    ]
    found = measure(content, "here")
    x0, y0, w, h = boxes.T
    sides = [
        np.minimum(a[:, None] + s[:, None], a + s) - np.maximum(a[:, None], a)
        for a, s in ((x0, w), (y0, h))
    ]
    both = sides[0].clip(0) * sides[1].clip(0)
    ious = both / ((w * h)[:, None] + w * h - both)
    np.fill_diagonal(ious, 0)
    np.testing.assert_allclose(found.overlap, ious.max(axis=1))
    same = ious * (labels[:, None] == labels)
    np.testing.assert_allclose(found.overlap_same, same.max(axis=1))


def test_scale_is_that_of_detectron2():
    sizes = np.array([[50, 100], [60, 40], [300, 2000], [480, 480]])
    for (height, width), scale in zip(sizes, resized(sizes, 320, 448)):
        new = ResizeShortestEdge.get_output_shape(int(height), int(width), 320, 448)
        assert new == pytest.approx((height * scale, width * scale), abs=0.51)


# ---------------------------------------------------------------------------------------- anchors


def test_fit_is_the_iou_with_the_best_anchor():
    """By hand: 100 x 50 against an anchor of the same shape, a quarter of a stride beside it."""
    size = 5000**0.5
    both = (100 - 1) * (50 - 1)
    mean, recall = anchor_fit(np.array([[100.0, 50.0]]), [size], [0.5])
    assert mean == pytest.approx(both / (2 * 5000 - both))
    assert recall == 1


def test_anchors_find_clusters():
    rng = np.random.default_rng(0)
    sizes = np.repeat([12.0, 40.0, 90.0, 200.0, 420.0], 60) * rng.uniform(0.95, 1.05, 300)
    ratios = np.tile([0.2, 1.0, 5.0], 100)
    sides = np.stack([sizes / ratios**0.5, sizes * ratios**0.5], axis=1)
    first, *others = suggest_anchors(sides)
    assert first.what == "k-means"
    assert first.sizes == pytest.approx([12, 40, 90, 200, 420], rel=0.05)
    assert first.ratios == pytest.approx([0.32, 1, 3.16], abs=0.02)  # no thinner ones
    assert first.mean_iou > max(anchors.mean_iou for anchors in others)
    assert suggest_anchors(sides)[0] == first


def test_detectron2s_anchors_stay_where_they_fit():
    sizes = np.repeat([32.0, 64.0, 128.0, 256.0, 512.0], 6)
    ratios = np.tile([0.5, 1.0, 2.0], 10)
    sides = np.stack([sizes / ratios**0.5, sizes * ratios**0.5], axis=1)
    assert suggest_anchors(sides)[0].what == "default"


@pytest.mark.parametrize(
    "sides", [np.zeros((0, 2)), [[5, 0]], [[7.0, 7.0]] * 9, [[1e4, 1], [1, 1e4]]]
)
def test_odd_boxes_give_anchors(sides):
    for anchors in suggest_anchors(np.array(sides)):
        assert len(anchors.sizes) == 5
        assert list(anchors.sizes) == sorted(set(anchors.sizes))


# ----------------------------------------------------------------------------------------- pixels


def test_pixel_values_in_detectron2s_order(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, 9, 3), dtype=np.uint8) for h in (5, 20)]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, picture in zip(paths, pictures):
        Image.fromarray(picture).save(path)
    flat = np.concatenate([p.reshape(-1, 3) for p in pictures]).astype(float)
    found = pixel_statistics(paths)
    assert found["mean"] == pytest.approx(flat.mean(axis=0)[::-1], abs=1e-3)
    assert found["std"] == pytest.approx(flat.std(axis=0)[::-1], abs=1e-3)
    assert pixel_statistics(paths, image_format="RGB")["mean"] == found["mean"][::-1]
    assert pixel_statistics(paths, most=1)["images"] == 1


def test_pixel_values_of_16_bits(tmp_path):
    values = np.arange(60, dtype=np.uint16).reshape(6, 10) * 1000
    cv2.imwrite(str(tmp_path / "a.png"), values)
    found = pixel_statistics([tmp_path / "a.png"])
    assert (found["mean"], found["bands"], found["dtype"]) == ([values.mean()], 1, "uint16")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: has 3 bands of uint8, .* 1 of uint16"):
        pixel_statistics([tmp_path / "a.png", tmp_path / "b.png"])


# ---------------------------------------------------------------------------------------- command


def _files(tmp_path):
    content = _content()
    for image in content["images"]:
        size = image["width"], image["height"]
        Image.new("RGB", size, (10, 20, 30)).save(tmp_path / image["file_name"])
    data = tmp_path / "data.json"
    data.write_text(json.dumps(content))
    return data


def test_command(tmp_path, capsys):
    data = _files(tmp_path)
    assert main([str(data), "--images", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "3 images (1 without objects), 4 objects" in text
    assert f"next: python -m mrcnn_ext.data.split {data} --images {tmp_path}" in text
    assert "PIXEL_MEAN [30.0, 20.0, 10.0], PIXEL_STD [0.0, 0.0, 0.0]" in text
    assert main(["nobody_has_this"]) == 2
    assert "no data set 'nobody_has_this' is registered" in capsys.readouterr().err


@pytest.mark.slow
def test_files_of_the_command(tmp_path):
    data, out = _files(tmp_path), tmp_path / "out"
    assert main([str(data), "--out", str(out)]) == 0
    assert json.loads((out / "stats.json").read_text())["objects"] == 4
    assert Image.open(out / "stats.png").size[0] > 1000
    data.write_text(json.dumps({**_content(), "annotations": []}))
    assert main([str(data), "--out", str(out)]) == 0
