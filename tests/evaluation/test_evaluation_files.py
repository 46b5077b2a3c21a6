# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions from files: damage is one clear error; the command line."""

from __future__ import annotations

import json

import pytest

from mrcnn_ext.errors import DataError
from mrcnn_ext.evaluation import evaluate_results_file
from mrcnn_ext.evaluation.__main__ import main
from tests.evaluation.evaluation_cases import SIGMAS, make_case, write


def _damage(records, what):
    records = json.loads(json.dumps(records))
    record = records[1]
    if what == "no score":
        del record["score"]
    elif what == "nan score":
        record["score"] = float("nan")
    elif what == "box of three":
        record["bbox"] = record["bbox"][:3]
    elif what == "infinite box":
        record["bbox"][0] = float("inf")
    elif what == "keypoints":
        record["keypoints"] = record["keypoints"][:4]
    elif what == "other size":
        record["segmentation"]["size"] = [7, 9]
    elif what == "runs too long":
        record["segmentation"]["counts"] += "o10"
    elif what == "counts cut":
        record["segmentation"]["counts"] = record["segmentation"]["counts"][:-2]
    elif what == "no mask":
        record["segmentation"] = 3
    elif what == "not a dict":
        records[1] = [1, 2]
    elif what == "image":
        record["image_id"] = 4711
    elif what == "category":
        record["category_id"] = 1
    return records


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no score", r"prediction 1 \(image id \d+\) has no 'score'"),
        ("nan score", "has the 'score' nan, expected a finite number"),
        ("box of three", "expected four finite numbers"),
        ("infinite box", "expected four finite numbers"),
        ("keypoints", "three finite numbers each"),
        ("other size", "a mask of 9 x 7 pixels, but the image has"),
        ("runs too long", "damaged mask"),
        ("counts cut", "damaged mask"),
        ("no mask", "neither polygons nor RLE"),
        ("not a dict", "is a list, expected an object"),
        ("image", "image id 4711, which is not in .*truth.json"),
        ("category", "has category 1; .* has the categories 2, 5, 8, 11"),
    ],
)
def test_damaged_predictions_are_one_clear_error(what, message, tmp_path):
    dataset, records = make_case(5)
    truth = write(tmp_path / "truth.json", dataset)
    path = write(tmp_path / "results.json", _damage(records, what))
    with pytest.raises(DataError, match=message) as error:
        evaluate_results_file(truth, path, sigmas=SIGMAS)
    assert path in str(error.value)


def test_files_that_are_no_json(tmp_path):
    dataset, records = make_case(5)
    truth = write(tmp_path / "truth.json", dataset)
    good = write(tmp_path / "good.json", records)
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps(records)[:-100])
    with pytest.raises(DataError, match=r"cut\.json: is not valid json, or not all of it is there"):
        evaluate_results_file(truth, cut)
    with pytest.raises(DataError, match="expected a list of predictions, found a dict"):
        evaluate_results_file(truth, write(tmp_path / "dict.json", {}))
    with pytest.raises(DataError, match=r"nothing\.json: cannot be read"):
        evaluate_results_file(truth, tmp_path / "nothing.json")
    with pytest.raises(DataError, match=r"cut\.json: is not valid json"):
        evaluate_results_file(cut, good)
    with pytest.raises(
        DataError, match=r"is no COCO data set: it holds a list \(detection results"
    ):
        evaluate_results_file(good, good)
    with pytest.raises(
        DataError, match="no data set 'no_such_set' is registered, and it is no file"
    ):
        evaluate_results_file("no_such_set", good)
    images = {"images": dataset["images"], "categories": dataset["categories"]}
    with pytest.raises(DataError, match="is no COCO data set: 'annotations' is missing"):
        evaluate_results_file(write(tmp_path / "images.json", images), good)


def test_a_task_that_the_file_has_nothing_for(tmp_path):
    dataset, records = make_case(5)
    for record in records:
        del record["segmentation"]
    truth = write(tmp_path / "truth.json", dataset)
    path = write(tmp_path / "results.json", records)
    with pytest.raises(DataError, match="task 'boundary' needs 'segmentation'"):
        evaluate_results_file(truth, path, ["boundary"])


def test_command_line(tmp_path, capsys):
    dataset, records = make_case(5)
    truth = write(tmp_path / "truth.json", dataset)
    path = write(tmp_path / "results.json", records)
    out = tmp_path / "numbers.json"
    tasks = ["bbox", "segm", "boundary", "mask_quality"]
    assert main([truth, path, "--tasks", *tasks, "--json", str(out)]) == 0
    numbers = json.loads(out.read_text())
    assert list(numbers) == tasks
    printed = capsys.readouterr().out
    assert f"{numbers['boundary']['AP']:.2f}" in printed
    assert "AP-ring" in printed
    assert main([truth, str(tmp_path / "none.json")]) == 1
    assert "none.json: cannot be read" in capsys.readouterr().err
