# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Saved forms after a kill: the same command makes all of them whole."""

from __future__ import annotations

import csv
import json

import cv2
import pytest

from mrcnn_ext.coco.rle import rle_areas
from mrcnn_ext.predict.__main__ import main
from mrcnn_ext.results import FORMS
from tests.predict.conftest import noise
from tests.predict.ended_run import end_predict


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_forms_are_whole_after_an_end_in_between(trained, tmp_path, name):
    config, _ = trained
    (tmp_path / "many").mkdir()
    for index in range(12):
        cv2.imwrite(str(tmp_path / "many" / f"{index:02d}.png"), noise(index, 40, 50))
    out = tmp_path / "out"
    arguments = ["--config-file", config, "--score-threshold", 0, "--device", "cpu"]
    arguments += [tmp_path / "many", "--output", out, "--save", ",".join(("cutouts", *FORMS))]
    arguments = list(map(str, arguments))
    found, error = end_predict(arguments, out, name, begins=300, ends=200)
    assert found == {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}[name], error
    if name == "SIGKILL":
        assert not any(form.is_in(out) for form in FORMS.values())
    else:
        assert "Traceback" not in error
        _check(out)
    assert main(arguments) == 0
    assert len(_check(out)) == 12
    assert not list(out.rglob(".*"))


def _check(out) -> list[dict]:
    """Every form has what the lines have; returns the lines."""
    lines = [json.loads(line) for line in (out / "coco_results.jsonl").read_text().splitlines()]
    counts = [len(line["results"]) for line in lines]
    for line in lines:
        areas = rle_areas([record["segmentation"] for record in line["results"]])
        folder = out / "cutouts" / line["file"]
        numbers = sorted(int(p.name.partition("_")[0]) for p in folder.iterdir())
        assert numbers == [number for number, area in enumerate(areas, 1) if area]
    with open(out / "objects.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == sum(counts)
    for name in (
        "coco_dataset.json",
        "coco_polygons.json",
        "cvat/annotations/instances_default.json",
    ):
        content = json.loads((out / name).read_text())
        assert [i["id"] for i in content["images"]] == [line["image_id"] for line in lines]
        assert len(content["annotations"]) == sum(counts)
    for name in ("brush", "polygons"):
        tasks = json.loads((out / "label_studio" / f"{name}.json").read_text())
        regions = [task["predictions"][0]["result"] for task in tasks]
        assert [sum("parentID" not in r for r in found) for found in regions] == counts
    return lines
