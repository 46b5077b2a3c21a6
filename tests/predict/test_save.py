# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""predict --save: forms of the results, also after an end in between; thresholds by class."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes
from pycocotools import mask as mask_util

from mrcnn_ext.coco.rle import rle_areas
from mrcnn_ext.predict import __main__ as command
from mrcnn_ext.predict import run as running
from mrcnn_ext.results import FORMS, Cutouts
from mrcnn_ext.structures import DeferredMaskInstances, DeferredMasks
from tests.predict.conftest import noise, write_clip


class _Model:
    """In place of a predictor: five objects anywhere, always the same in an image."""

    device = "cpu"
    num_classes = 3
    metadata = Metadata(
        thing_classes=["ring", "star", "gear"],
        thing_dataset_id_to_contiguous_id={1: 0, 2: 1, 5: 2},
    )

    def __call__(self, image: np.ndarray) -> dict:
        generator = torch.Generator().manual_seed(int(image.sum()))
        height, width = image.shape[:2]
        corners = torch.rand(5, 2, 2, generator=generator).sort(1).values
        boxes = (corners * torch.tensor([width, height])).reshape(5, 4)
        found = DeferredMaskInstances((height, width))
        found.pred_boxes = Boxes(boxes)
        found.scores = torch.rand(5, generator=generator).sort(descending=True).values
        found.pred_classes = torch.randint(0, 3, (5,), generator=generator)
        masks = torch.rand(5, 28, 28, generator=generator)
        found.set("pred_masks", DeferredMasks(masks, boxes, (height, width), 0.5))
        return {"instances": found}


@pytest.fixture(autouse=True)
def _model(monkeypatch):
    run = {"config": "of a test", "weights": "of a test"}
    monkeypatch.setattr(command, "_config", lambda args: None)
    monkeypatch.setattr(command, "_exported", lambda args: (run, _Model))


def _run(*arguments, threshold="0"):
    options = [] if threshold is None else ["--score-threshold", threshold]
    return command.main(["--config-file", "any", *options, *map(str, arguments)])


def _lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "coco_results.jsonl").read_text().splitlines()]


def _cut_out_numbers(out, line: dict) -> list[int]:
    folder = out / "cutouts" / line["file"]
    return sorted(int(p.name.partition("_")[0]) for p in folder.iterdir())


def _with_a_pixel(line: dict) -> list[int]:
    areas = rle_areas([record["segmentation"] for record in line["results"]])
    return [number for number, area in enumerate(areas, 1) if area]


def test_several_forms_at_once(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert _run(photos, "--output", out, "--save", f"cutouts,{','.join(FORMS)}") == 0
    assert not (out / "pictures").exists()  # not among those that were named
    lines = _lines(out)
    objects = sum(len(line["results"]) for line in lines)
    assert objects == 15
    for line in lines:
        assert _cut_out_numbers(out, line) == _with_a_pixel(line)
        for file in (out / "cutouts" / line["file"]).iterdir():
            picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            record = line["results"][int(file.name.partition("_")[0]) - 1]
            assert (picture[:, :, 3] > 0).sum() == mask_util.area(record["segmentation"])
    with open(out / "objects.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == objects
    content = json.loads((out / "coco_dataset.json").read_text())
    assert [i["file_name"] for i in content["images"]] == [line["file"] for line in lines]
    known = {category["id"] for category in content["categories"]}
    assert {annotation["category_id"] for annotation in content["annotations"]} <= known
    assert content["categories"][0] == {"id": 1, "name": "ring"}
    # Another form later: nothing is predicted for it.
    capsys.readouterr()
    (out / "objects.csv").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Model, "__call__", None)
        assert _run(photos, "--output", out, "--save", "csv") == 0
    assert (out / "objects.csv").exists()
    assert "without the new images" not in capsys.readouterr().out
    # With more images, forms of before are named.
    cv2.imwrite(str(photos / "new.png"), noise(7))
    assert _run(photos, "--output", out, "--save", "csv", "--save", "coco") == 0
    assert "without the new images: coco-polygons, label-studio" in capsys.readouterr().out
    assert len(json.loads((out / "coco_dataset.json").read_text())["images"]) == 4
    # --restart deletes what is there.
    assert _run(photos / "b.jpg", "--output", out, "--no-pictures", "--restart") == 0
    assert not any(form.is_in(out) for form in FORMS.values())
    assert not (out / "cutouts" / "b.jpg").exists()


def test_cut_outs_that_are_missing_are_made_of_the_lines(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = [photos, "--output", out, "--save", "cutouts,pictures,csv"]
    original = Cutouts.write

    def end(self, image, line, predictions):
        if line["file"] == "b.jpg":
            raise KeyboardInterrupt
        original(self, image, line, predictions)

    monkeypatch.setattr(Cutouts, "write", end)
    assert _run(*arguments) == 130
    before = (out / "coco_results.jsonl").read_bytes()
    done = [line["file"] for line in _lines(out)]
    assert done == ["a.png", "b.jpg"]
    assert not (out / "cutouts" / "b.jpg").exists()
    with open(out / "objects.csv", newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == set(done)
    monkeypatch.setattr(Cutouts, "write", original)
    # A model that finds less now: what the line says is cut out.
    kept = running._kept
    monkeypatch.setattr(running, "_kept", lambda found, limit: kept(found, limit)[:1])
    assert _run(*arguments) == 0
    assert (out / "coco_results.jsonl").read_bytes().startswith(before)
    for line in _lines(out):
        assert _cut_out_numbers(out, line) == _with_a_pixel(line)
    assert [len(line["results"]) for line in _lines(out)] == [5, 5, 1]
    assert not list(out.rglob(".*"))


def test_frames_of_videos_have_cut_outs(tmp_path):
    write_clip(tmp_path / "clip.mp4", 3)
    out = tmp_path / "out"
    arguments = [tmp_path / "clip.mp4", "--output", out, "--save", "cutouts", "--every", 2]
    assert _run(*arguments) == 0
    folders = sorted(p.name for p in (out / "cutouts").iterdir())
    assert folders == ["clip.mp4#0", "clip.mp4#2"]
    assert _run(*arguments, "--restart", "--save", "coco") == 0
    assert sorted(p.name for p in (out / "cutouts").iterdir()) == folders


def test_thresholds_of_each_class(photos, tmp_path, capsys):
    _run(photos, "--output", tmp_path / "all", "--no-pictures")
    content = json.loads((tmp_path / "all" / "predictions.json").read_text())
    instances = [i for image in content["images"] for i in image["instances"]]
    names = {i["class_name"] for i in instances}
    one = sorted(names)[0]
    scores = sorted(i["score"] for i in instances if i["class_name"] != one)
    limit = scores[len(scores) // 2] if scores else 0.5
    file = tmp_path / "thresholds.json"
    file.write_text(
        json.dumps(
            {
                "format": "mrcnn_ext thresholds 1",
                "default": limit,
                "classes": {one: 0.0, "star": None},
            }
        )
    )
    out = tmp_path / "out"
    arguments = [photos, "--output", out, "--no-pictures", "--thresholds", file]
    assert _run(*arguments, threshold=None) == 0
    got = json.loads((out / "predictions.json").read_text())
    kept = [i for image in got["images"] for i in image["instances"]]
    expected = [i for i in instances if i["class_name"] == one or i["score"] >= limit]
    assert [(i["class_name"], i["score"]) for i in kept] == [
        (i["class_name"], pytest.approx(i["score"])) for i in expected
    ]
    assert _run(*arguments, threshold="0.3") == 2
    assert "--score-threshold does not go with --thresholds" in capsys.readouterr().err
    # Another file is another run.
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"default": 0.9}))
    assert _run(*arguments, threshold=None) == 2
    assert "--thresholds was" in capsys.readouterr().err
    file.write_text(json.dumps(content | {"classes": {"whale": 0.5}}))
    other = [photos, "--output", tmp_path / "other", "--no-pictures", "--thresholds", file]
    assert _run(*other, threshold=None) == 2
    assert "thresholds of classes that the model does not have: whale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "csv,boxes"], "--save 'boxes': expected some of pictures, cutouts, coco"),
        (["--save", "pictures", "--no-pictures"], "--no-pictures does not go with --save pictures"),
        (["--polygon-error", "-1"], "--polygon-error is -1.0"),
        (["--thresholds", "no.json"], "no.json"),
    ],
)
def test_wrong_options_end_before_anything_is_done(photos, tmp_path, capsys, options, message):
    assert _run(photos, "--output", tmp_path / "out", *options, threshold=None) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
