# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""From predictions to a file and back: the evaluation gives the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mrcnn_ext.coco.read import check_entries
from mrcnn_ext.coco.results import read_records
from mrcnn_ext.coco.rle import to_rle
from mrcnn_ext.data.convert import convert_to_coco
from mrcnn_ext.evaluation import evaluate_results_file
from mrcnn_ext.results import FormOptions, write_forms
from mrcnn_ext.results.polygons import LEAST_IOU, polygons_of
from tests.evaluation.evaluation_cases import SIGMAS, assert_same, blob, encode, evaluate, write
from tests.results.results_cases import label_studio_records, made_up

_TASKS = ["bbox", "segm", "boundary", "keypoints"]


def _form(folder, name: str, predictions, file: str, error: float = 0.0):
    write_forms([name], predictions, folder, FormOptions(polygon_error=error))
    return folder / file


@pytest.mark.parametrize(
    ("name", "file"), [("coco", "coco_dataset.json"), ("coco-polygons", "coco_polygons.json")]
)
def test_coco_data_sets_give_the_same_numbers(tmp_path, name, file):
    dataset, records, predictions = made_up()
    truth = write(tmp_path / "truth.json", dataset)
    path = _form(tmp_path, name, predictions, file)
    got = evaluate_results_file(truth, path, _TASKS, sigmas=SIGMAS)
    for task, expected in evaluate(dataset, records, _TASKS).items():
        assert_same(got[task], expected)
    # It is a data set that can be trained on, too.
    content = json.loads(path.read_text())
    check_entries(content, name)
    assert [image["id"] for image in content["images"]] == [i["id"] for i in dataset["images"]]
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(records) + 1))
    assert {v for a in content["annotations"] for v in a["keypoints"][2::3]} == {2}


def test_masks_with_holes_stay_rle_and_others_become_polygons(tmp_path):
    dataset, records, predictions = made_up()
    path = _form(tmp_path, "coco-polygons", predictions, "coco_polygons.json")
    got = json.loads(path.read_text())["annotations"]
    kinds = {type(annotation["segmentation"]) for annotation in got}
    assert kinds == {list, dict}
    for annotation, record in zip(got, records):
        mask = mask_util.decode(record["segmentation"])
        back = mask_util.decode(read_records([annotation], _sizes(dataset))[0]["segmentation"])
        assert np.array_equal(back, mask)
        if isinstance(annotation["segmentation"], dict):
            assert annotation["segmentation"] == record["segmentation"]


def test_polygons_keep_to_their_tolerance():
    rng = np.random.default_rng(0)
    fewer = 0
    for _ in range(40):
        height, width = rng.integers(20, 120, 2)
        mask = (
            blob(rng, int(height), int(width)) if rng.random() < 0.3 else _disk(rng, height, width)
        )
        rle = encode(mask)
        polygons, exact = polygons_of(rle, 1.0), polygons_of(rle, 0.0)
        if polygons is None:
            assert exact is None
            continue
        back = mask_util.merge(mask_util.frPyObjects(polygons, int(height), int(width)))
        assert mask_util.iou([back], [rle], [0]) >= LEAST_IOU
        fewer += sum(map(len, polygons)) < sum(map(len, exact))
    assert fewer > 20


def test_ap_with_thinned_polygons_differs_little(tmp_path):
    dataset, records, predictions = made_up(seed=8, images=12)
    truth = write(tmp_path / "truth.json", dataset)
    path = _form(tmp_path, "coco-polygons", predictions, "coco_polygons.json", error=1.0)
    got = evaluate_results_file(truth, path, ["segm"])["segm"]["AP50"]
    assert got == pytest.approx(evaluate(dataset, records, ["segm"])["segm"]["AP50"], abs=2)


def test_cvat_has_objects_and_keypoints_in_two_files(tmp_path):
    dataset, records, predictions = made_up()
    truth = write(tmp_path / "truth.json", dataset)
    folder = _form(tmp_path, "cvat", predictions, "cvat/annotations")
    objects, points = folder / "instances_default.json", folder / "person_keypoints_default.json"
    expected = evaluate(dataset, records, _TASKS)
    got = evaluate_results_file(truth, objects, _TASKS[:3])
    got |= evaluate_results_file(truth, points, _TASKS[3:], sigmas=SIGMAS)
    for task in _TASKS:
        assert_same(got[task], expected[task])
    assert not any("keypoints" in a for a in json.loads(objects.read_text())["annotations"])
    categories = json.loads(points.read_text())["categories"]
    assert all(c["skeleton"] == [[1, 3]] and len(c["keypoints"]) == 5 for c in categories)


@pytest.mark.parametrize("kind", ["brush", "polygons"])
def test_label_studio_gives_the_same_numbers(tmp_path, kind):
    dataset, records, predictions = made_up()
    name = "label-studio" if kind == "brush" else "label-studio-polygons"
    path = _form(tmp_path, name, predictions, f"label_studio/{kind}.json")
    tasks = json.loads(path.read_text())
    back = label_studio_records(tasks)
    expected = evaluate(dataset, records, ["segm", "keypoints"])
    got = evaluate(dataset, back, ["segm", "keypoints"])
    assert_same(got["segm"], expected["segm"])
    # Without the predicted box, which the sizes of keypoints go by.
    assert_same(got["keypoints"], expected["keypoints"], ["AP", "AP50", "AP75"])
    kinds = {r["type"] for t in tasks for p in t["predictions"] for r in p["result"]}
    wanted = {"brushlabels", "keypointlabels"} | (
        {"polygonlabels"} if kind == "polygons" else set()
    )
    assert kinds - {"rectanglelabels"} == wanted  # a rectangle stands for an empty mask


def test_corrected_label_studio_tasks_come_back_as_the_same_objects(tmp_path):
    dataset, records, predictions = made_up()
    path = _form(tmp_path, "label-studio-polygons", predictions, "label_studio/polygons.json")
    tasks = json.loads(path.read_text())
    for task, image in zip(tasks, dataset["images"]):  # as Label Studio exports what was accepted
        task["annotations"] = task.pop("predictions")
        for region in task["annotations"][0]["result"]:
            assert (region["original_width"], region["original_height"]) == (
                image["width"], image["height"]
            )  # fmt: skip
    tasks = [task for task in tasks if task["annotations"][0]["result"]]
    export = write(tmp_path / "export.json", tasks)
    content, _ = convert_to_coco("label-studio", export, tmp_path / "back.json")
    by_name = {image["file_name"]: image["id"] for image in dataset["images"]}
    names = {image["id"]: by_name[image["file_name"]] for image in content["images"]}
    back = [(names[a["image_id"]], a) for a in content["annotations"] if a.get("segmentation")]
    expected = [r for r in records if mask_util.area(r["segmentation"])]
    assert len(back) == len(expected)
    for number in by_name.values():
        own = [a for image, a in back if image == number]
        for annotation, record in zip(own, [r for r in expected if r["image_id"] == number]):
            rle = to_rle(annotation["segmentation"], *record["segmentation"]["size"])
            assert mask_util.iou([rle], [record["segmentation"]], [0]) == 1
            np.testing.assert_allclose(
                annotation["keypoints"][0::3], record["keypoints"][0::3], atol=2e-3
            )


def _sizes(dataset: dict) -> dict:
    return {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}


def _disk(rng, height: int, width: int) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width]
    y, x = rng.random(2) * (height, width)
    return ((ys - y) ** 2 + (xs - x) ** 2 < rng.integers(5, 20) ** 2).astype(np.uint8)
