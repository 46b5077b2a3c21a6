# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Forms by hand: rows, cut-outs, names, files that are whole or not there."""

from __future__ import annotations

import csv
import errno
import json

import cv2
import numpy as np
import pytest

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.results import (
    Cutouts,
    FormOptions,
    Predictions,
    choose_forms,
    cut_out,
    remove_forms,
    write_forms,
)
from mrcnn_ext.results import forms as table
from mrcnn_ext.skeletons import Skeleton, SkeletonSet
from tests.evaluation.evaluation_cases import encode

_MASK = np.zeros((6, 8), dtype=np.uint8)
_MASK[1:5, 2:6] = 1
_MASK[2, 3] = 0


def _record(category_id: int = 7, **more) -> dict:
    return {
        "image_id": 5,
        "category_id": category_id,
        "score": 0.75,
        "bbox": [2, 1, 4, 4.5],
        **more,
    }


def _predictions(records: list[dict], **more) -> Predictions:
    lines = [
        {"image_id": 4, "file": "empty, ü.png", "height": 6, "width": 8, "results": []},
        {"image_id": 5, "file": "sub/a.png", "height": 6, "width": 8, "results": records},
    ]
    return Predictions(lines, **more)


def _rows(folder) -> list[dict]:
    with open(folder / "objects.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_an_object_and_columns_for_its_keypoints(tmp_path):
    skeletons = SkeletonSet(
        (Skeleton("dog", ("nose", "tail")), Skeleton("car", ("front",))), (0, None, 1), ()
    )
    records = [
        _record(
            7, segmentation=encode(_MASK), keypoints=[0, 1.25, 0.5, 3, 4, 0.25], mask_score=0.5
        ),
        _record(8),
        _record(9, keypoints=[1, 2, 0.125]),
    ]
    names = ["dog", 'bone "x", y', "car"]
    made = _predictions(
        records, class_names=names, category_ids={0: 7, 1: 8, 2: 9}, skeletons=skeletons
    )
    write_forms(["csv"], made, tmp_path)
    first, second, third = _rows(tmp_path)
    assert (
        list(first)
        == (
            "image image_id object class category_id score mask_score x y width height area "
            "nose_x nose_y nose_score tail_x tail_y tail_score front_x front_y front_score"
        ).split()
    )
    assert [first[key] for key in ("image", "image_id", "object", "class", "category_id")] == [
        "sub/a.png", "5", "1", "dog", "7"
    ]  # fmt: skip
    assert [float(first[key]) for key in ("score", "mask_score", "x", "y", "width", "height")] == [
        0.75, 0.5, 2, 1, 4, 4.5
    ]  # fmt: skip
    assert float(first["area"]) == 15
    assert [float(first[f"nose_{k}"]) for k in ("x", "y", "score")] == [0.5, 1.75, 0.5]
    assert first["front_x"] == ""
    assert (second["class"], second["object"], float(second["area"])) == (names[1], "2", 18)
    assert second["mask_score"] == second["nose_x"] == ""
    assert (third["nose_x"], third["front_x"]) == ("", "1.5")


def test_without_names_classes_and_keypoints_are_numbers(tmp_path):
    made = _predictions([_record(3, keypoints=[0, 0, 1] * 2), _record(1)])
    write_forms(list(table.FORMS), made, tmp_path)
    first, _ = _rows(tmp_path)
    assert first["class"] == "3"
    assert first["2_x"] == "0.5"
    content = json.loads((tmp_path / "coco_dataset.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "1"}, {"id": 3, "name": "3"}]
    assert [image["file_name"] for image in content["images"]] == ["empty, ü.png", "sub/a.png"]
    # Nobody knows of skeletons: CVAT has no file of them.
    assert not (tmp_path / "cvat/annotations/person_keypoints_default.json").exists()
    interface = (tmp_path / "label_studio" / "interface.xml").read_text()
    assert '<Label value="2" model_index="1"/>' in interface


def test_label_studio_by_hand(tmp_path):
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[1:4, 2:6] = 1
    mask[5, 7] = 1
    records = [_record(segmentation=encode(mask), keypoints=[2, 3, 0.5]), _record()]
    made = _predictions(records, class_names=["<b>"], category_ids={0: 7})
    options = FormOptions(image_url="https://host/")
    write_forms(["label-studio", "label-studio-polygons"], made, tmp_path, options)
    empty, task = json.loads((tmp_path / "label_studio" / "polygons.json").read_text())
    assert empty["data"]["image"] == "https://host/empty%2C%20%C3%BC.png"
    assert empty["predictions"] == [{"model_version": "mrcnn_ext", "result": []}]
    (prediction,) = task["predictions"]
    assert prediction["score"] == 0.75
    large, small, point, box = prediction["result"]
    assert (large["type"], large["id"], large["score"]) == ("polygonlabels", "o1", 0.75)
    assert large["original_width"], large["original_height"] == (8, 6)
    corners = sorted(map(tuple, large["value"]["points"]))
    y0, y1 = pytest.approx(100 / 6), pytest.approx(400 / 6)
    assert corners == [(25.0, y0), (25.0, y1), (75.0, y0), (75.0, y1)]
    assert (small["id"], small["parentID"]) == ("o1p1", "o1")
    assert (point["type"], point["parentID"], point["score"]) == ("keypointlabels", "o1", 0.5)
    assert (point["value"]["x"], point["value"]["y"]) == (25.0, 50.0)
    assert point["value"]["keypointlabels"] == ["1"]
    assert box["type"] == "rectanglelabels"
    assert box["value"] == {
        "x": 25.0, "y": y0, "width": 50.0, "height": 75.0, "rotation": 0,
        "rectanglelabels": ["<b>"],
    }  # fmt: skip
    assert "&lt;b&gt;" in (tmp_path / "label_studio" / "interface.xml").read_text()


def test_cut_outs_are_transparent_around_the_object(tmp_path):
    image = np.random.default_rng(0).integers(1, 255, (6, 8, 3), dtype=np.uint8)
    records = [
        _record(segmentation=encode(_MASK)),
        _record(segmentation=encode(np.zeros((6, 8)))),
        _record(bbox=[6.5, -1, 9, 3.2]),
    ]
    made = _predictions(records, class_names=["a/b: c"], category_ids={0: 7})
    line = made.lines[1]
    cutouts = Cutouts(tmp_path)
    assert "sub/a.png" not in cutouts
    cutouts.write(image, line, made)
    cutouts.write(image, made.lines[0], made)
    assert "sub/a.png" in cutouts
    assert "empty, ü.png" in cutouts
    files = sorted(
        p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png") if p.is_file()
    )
    assert files == [f"cutouts/sub/a.png/{n}_a_b_c.png" for n in (1, 3)]
    first, third = (cv2.imread(str(tmp_path / f), cv2.IMREAD_UNCHANGED) for f in files)
    inside = _MASK[1:5, 2:6] != 0
    assert np.array_equal(first[:, :, 3], inside * 255)
    assert np.array_equal(first[inside][:, :3], image[1:5, 2:6][inside])
    assert not first[~inside].any()
    assert np.array_equal(third[:, :, :3], image[0:3, 6:8])
    assert (third[:, :, 3] == 255).all()
    cutouts.discard(["sub/a.png"])
    assert "sub/a.png" not in cutouts
    assert "empty, ü.png" in cutouts
    assert cut_out(image, records[1]) is None


def test_cut_outs_of_an_image_are_there_whole_or_not_at_all(tmp_path, monkeypatch):
    made = _predictions([_record(segmentation=encode(_MASK))] * 2)
    calls = []

    def full(*_):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mrcnn_ext.results.cutouts.os.fsync", full)
    cutouts = Cutouts(tmp_path)
    with pytest.raises(OSError, match="No space"):
        cutouts.write(np.zeros((6, 8, 3), np.uint8), made.lines[1], made)
    assert list((tmp_path / "cutouts").iterdir()) == []
    (tmp_path / "cutouts" / ".x.part" / "y").mkdir(parents=True)  # of a killed process
    cutouts.begin()
    assert list((tmp_path / "cutouts").iterdir()) == []
    with pytest.raises(ConfigError, match=r"the folder of a\.png would hold that of a\.png/b\.png"):
        Cutouts.check(["a.png", "a.png/b.png"])


def test_one_form_that_fails_does_not_stop_the_others(tmp_path):
    (tmp_path / "objects.csv").mkdir()  # no file can take its place
    made = _predictions([_record()])
    with pytest.raises(OSError, match=r"objects\.csv"):
        write_forms(["csv", "coco"], made, tmp_path)
    assert (tmp_path / "coco_dataset.json").is_file()
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "objects.csv").rmdir()
    write_forms(list(table.FORMS), made, tmp_path)
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert written <= {file for form in table.FORMS.values() for file in form.files}
    assert all(form.is_in(tmp_path) for form in table.FORMS.values())
    remove_forms(tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_names_and_options_are_checked():
    assert choose_forms(["csv", "cutouts", "csv"]) == ["csv", "cutouts"]
    with pytest.raises(ConfigError, match=r"--save 'label_studio': .*Did you mean 'label-studio'"):
        choose_forms(["label_studio"])
    for value in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="--polygon-error is"):
            FormOptions(polygon_error=value)
