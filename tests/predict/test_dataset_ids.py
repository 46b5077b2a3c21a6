# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ids of a data set in the predictions, so that they can be scored."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from mrcnn_ext.errors import DataError
from mrcnn_ext.evaluation import evaluate_results_file
from mrcnn_ext.predict import Predictor
from mrcnn_ext.predict.__main__ import main
from mrcnn_ext.predict.dataset_ids import DatasetIds
from mrcnn_ext.predict.sources import Source

NAMES = ["ring", "bar", "disc", "star", "cross", "moon", "wave", "leaf"]


def _json(folder, images, categories=None, **more) -> Path:
    content = {"images": images, "categories": categories or [{"id": 1, "name": "a"}], **more}
    (folder / "data.json").write_text(json.dumps(content))
    return folder / "data.json"


def _images(**ids) -> list[dict]:
    return [{"id": i, "file_name": n, "height": 80, "width": 120} for n, i in ids.items()]


def _match(file: Path, *paths: str) -> dict:
    return DatasetIds(file).of_images([Source(Path(p), Path(p).name) for p in paths])


def test_images_are_found_by_the_end_of_their_path(tmp_path):
    images = _images(**{"a.jpg": 5, "x/b.jpg": "b", "y/b.jpg": 7, "train/c.jpg": 8, "z\\d.jpg": 9})
    file = _json(tmp_path, images)
    assert _match(file, "/data/a.jpg") == {"a.jpg": 5}
    assert _match(file, "/data/x/b.jpg") == {"b.jpg": "b"}
    assert _match(file, "/data/y/../y/b.jpg") == {"b.jpg": 7}
    assert _match(file, "/photos/c.jpg") == {"c.jpg": 8}  # the only one of that name
    assert _match(file, "/data/z/d.jpg") == {"d.jpg": 9}
    with pytest.raises(DataError, match=r"1 of 1 inputs are ambiguous.*b.jpg \(ids 'b', 7\)"):
        _match(file, "/data/b.jpg")
    with pytest.raises(DataError, match=r"2 of 3 inputs are not in it.*: e.jpg, f.jpg"):
        _match(file, "a.jpg", "e.jpg", "f.jpg")
    sources = [Source(Path("/1/a.jpg"), "a.jpg"), Source(Path("/2/a.jpg"), "a_2.jpg")]
    with pytest.raises(DataError, match=r"ambiguous.*a.jpg and a_2.jpg \(id 5\)"):
        DatasetIds(file).of_images(sources)
    twice = _json(tmp_path, [*_images(**{"a.jpg": 5}), *_images(**{"a.jpg": 6})])
    with pytest.raises(DataError, match=r"a.jpg \(ids 5, 6\)"):
        _match(twice, "a.jpg")
    with pytest.raises(DataError, match=r"clip.mp4 is a video"):
        _match(file, "clip.mp4")


def test_classes_are_found_by_name_or_else_in_the_order_of_ids(tmp_path):
    categories = [{"id": 9, "name": "b"}, {"id": 4, "name": "a"}]
    ids = DatasetIds(_json(tmp_path, _images(x=1), categories))
    assert ids.of_classes(2, None) == ([4, 9], ["a", "b"])
    assert ids.of_classes(2, ["b", "a"]) == ([9, 4], ["b", "a"])
    with pytest.raises(
        DataError, match=r"classes of the model that are not among.*: c; it has a, b"
    ):
        ids.of_classes(2, ["a", "c"])
    with pytest.raises(DataError, match=r"has 2 categories, but the model has 3 classes"):
        ids.of_classes(3, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no list 'images'"),
        ({"images": [{"id": 1}], "categories": []}, r"images\[0\] is \{'id': 1\}"),
        ({"images": [{"id": [1], "file_name": "a"}], "categories": []}, r"images\[0\]"),
        ({"images": [{"id": 1, "file_name": "a"}]}, "has no list 'categories'"),
    ],
)
def test_a_json_without_ids_is_named(tmp_path, content, message):
    (tmp_path / "data.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        DatasetIds(tmp_path / "data.json")


@pytest.fixture
def dataset(photos):
    """A json of the images of ``photos``, whose true objects are those of ``_found``."""
    images = _images(**{"b.jpg": 31, "a.png": 12, "more/a.png": 77})
    images[2].update(height=100, width=90)
    categories = [{"id": 10 * (8 - k), "name": name} for k, name in enumerate(NAMES)]
    annotations = []
    for image in images:
        x, y, w, h = _box(image["height"], image["width"])
        annotation = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": 70}
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations.append({**annotation, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
                            "segmentation": [polygon]})  # fmt: skip
    return _json(photos, images, categories, annotations=annotations)


def _box(height: int, width: int) -> list[int]:
    return [10, 20, width // 3, height // 3]


def _found(self, image: np.ndarray) -> dict:
    """A perfect model: its class 1 is where the data set has its category 70."""
    height, width = image.shape[:2]
    x, y, w, h = _box(height, width)
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[0, y : y + h, x : x + w] = True
    instances = Instances((height, width))
    instances.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32))
    instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([1])
    instances.pred_masks = masks
    return {"instances": instances}


def test_predictions_with_ids_score_as_they_should(trained, photos, dataset, tmp_path, monkeypatch):
    config, _ = trained
    monkeypatch.setattr(Predictor, "__call__", _found)
    arguments = ["--config-file", str(config), "--ids-from", str(dataset), "--no-pictures"]
    arguments += ["--classes", ",".join(NAMES), str(photos), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    for name in ("coco_results.json", "coco_results.jsonl"):
        scores = evaluate_results_file(dataset, tmp_path / "out" / name)
        assert scores["bbox"]["AP"] == pytest.approx(100)
        assert scores["segm"]["AP"] == pytest.approx(100)
    lines = (tmp_path / "out" / "coco_results.jsonl").read_text().splitlines()
    ids = {line["file"]: line["image_id"] for line in map(json.loads, lines)}
    assert ids == {"a.png": 12, "b.jpg": 31, "more/a.png": 77}
    images = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert {entry["class_name"] for image in images for entry in image["instances"]} == {"bar"}
    assert {entry["class_id"] for image in images for entry in image["instances"]} == {1}


def test_other_images_and_classes_are_errors(trained, photos, dataset, tmp_path, capsys):
    config, _ = trained
    arguments = ["--config-file", str(config), "--ids-from", str(dataset), "--output"]
    arguments += [str(tmp_path / "out"), str(photos)]
    assert main(arguments) == 2  # the config's data set has other names
    assert "data.json: classes of the model that are not among its categories" in (
        capsys.readouterr().err
    )
    cv2.imwrite(str(photos / "new.png"), np.zeros((8, 8, 3), np.uint8))
    assert main(arguments) == 2
    assert "1 of 4 inputs are not in it, by file name: new.png" in capsys.readouterr().err


def test_names_and_ids_of_a_data_set_that_detectron2_has_not_loaded(trained, photos, dataset):
    _, cfg = trained
    cfg = cfg.clone()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("predict_test_photos",), ("not_here",)
    register_coco_instances("predict_test_photos", {}, str(dataset), str(photos))
    try:
        metadata = Predictor(cfg, device="cpu").metadata
        assert metadata.thing_classes == NAMES[::-1]  # in the order of ids
        assert metadata.thing_dataset_id_to_contiguous_id[70] == 6
        DatasetCatalog.get("predict_test_photos")
        assert MetadataCatalog.get("predict_test_photos").thing_classes == NAMES[::-1]
    finally:
        DatasetCatalog.pop("predict_test_photos")
        MetadataCatalog.pop("predict_test_photos")
