# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Thresholds by class, the confusion matrix, and their file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mrcnn_ext.errors import ConfigError, DataError
from mrcnn_ext.evaluation import __main__ as command
from mrcnn_ext.evaluation.confusion import frequent_confusions
from mrcnn_ext.evaluation.tasks.operating_point import choose_point
from mrcnn_ext.evaluation.thresholds import Thresholds, find_thresholds, read_thresholds
from tests.evaluation.evaluation_cases import CLASSES, evaluate, make_case, write


def _box(image_id: int, category_id: int, box: list, score: float | None = None) -> dict:
    entry: dict = {"image_id": image_id, "category_id": category_id, "bbox": box}
    if score is not None:
        return {**entry, "score": score}
    return {**entry, "area": box[2] * box[3], "iscrowd": 0}


_AT = [0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10]  # places that do not overlap
_CROWD = [60, 60, 40, 40]


def _by_hand() -> tuple[dict, list[dict]]:
    truth = [_box(1, 1, _AT[0]), _box(1, 1, _AT[1]), _box(1, 2, _AT[2]), _box(2, 2, _AT[0])]
    truth.append({**_box(2, 1, _CROWD), "iscrowd": 1})
    dataset = {
        "images": [{"id": i, "height": 100, "width": 100, "file_name": f"{i}.jpg"} for i in (1, 2)],
        "categories": [{"id": i, "name": n} for i, n in ((1, "cat"), (2, "dog"), (3, "emu"))],
        "annotations": [{**entry, "id": i} for i, entry in enumerate(truth, 1)],
    }
    records = [
        _box(1, 1, _AT[0], 0.9),
        _box(2, 1, _AT[0], 0.8),  # takes the dog for a cat
        _box(1, 1, _AT[1], 0.7),
        _box(1, 1, _AT[0], 0.6),  # a second time
        _box(2, 1, [70, 70, 10, 10], 0.95),  # in the crowd
        _box(1, 2, _AT[2], 0.5),
        _box(1, 2, [80, 80, 10, 10], 0.3),  # where nothing is
    ]
    return dataset, records


def test_by_hand(tmp_path):
    dataset, records = _by_hand()
    truth, results = write(tmp_path / "t.json", dataset), write(tmp_path / "r.json", records)
    points, names = find_thresholds(truth, results)
    assert names == ["cat", "dog", "emu"]
    assert points.task == "bbox"
    cat, dog, emu = points.of_class
    # At 0.7: two of three right, both found. The middle to the next score.
    assert vars(cat) == pytest.approx(
        {"threshold": 0.65, "precision": 2 / 3, "recall": 1, "f1": 0.8, "objects": 2, "detections": 3,
         "reached": True}
    )  # fmt: skip
    assert vars(dog) == pytest.approx(
        {"threshold": 0.4, "precision": 1, "recall": 0.5, "f1": 2 / 3, "objects": 2, "detections": 1,
         "reached": True}
    )  # fmt: skip
    assert emu is None
    assert points.confusion.tolist() == [
        [2, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert (points.total.precision, points.total.recall) == (0.75, 0.75)
    assert frequent_confusions(points.confusion, names) == [(1, "dog", "cat")]
    # A wanted precision: the lowest threshold that has it.
    points, _ = find_thresholds(truth, results, precision=0.9)
    cat, dog, _ = points.of_class
    assert (cat.threshold, cat.precision, cat.recall) == (pytest.approx(0.85), 1, 0.5)
    assert points.missed() == []
    assert points.confusion.tolist()[0] == [1, 0, 0, 1]
    with pytest.raises(ConfigError, match=r"the precision is 1\.5"):
        find_thresholds(truth, results, precision=1.5)


def test_a_precision_that_is_not_reached_is_said(tmp_path, capsys):
    dataset, records = _by_hand()
    records = [{**r, "score": 0.99} if r["bbox"] == [80, 80, 10, 10] else r for r in records]
    truth, results = write(tmp_path / "t.json", dataset), write(tmp_path / "r.json", records)
    file = tmp_path / "thresholds.json"
    assert command.main([truth, results, "--thresholds", str(file), "--precision", "0.9"]) == 0
    out = capsys.readouterr().out
    assert "no threshold reaches the precision of 0.9 for dog" in out
    assert "threshold is that of all classes: emu" in out
    assert "all detections are kept of dog" in out
    content = json.loads(file.read_text())
    assert content["chosen_by"] == {"precision": 0.9}
    assert content["classes"]["dog"]["reached"] is False
    assert content["classes"]["dog"]["precision"] == 0.5


@pytest.mark.parametrize("precision", [None, 0.5])
def test_thresholds_are_those_that_trying_all_of_them_finds(tmp_path, precision):
    dataset, records = make_case(11, images=12)
    for number, record in enumerate(records):
        record["score"] = round(record["score"] + 1e-3 * number, 4) / 2
    truth, results = write(tmp_path / "t.json", dataset), write(tmp_path / "r.json", records)
    points, _ = find_thresholds(truth, results, precision=precision)
    assert points.task == "segm"
    for index, point in enumerate(points.of_class):
        own = [r for r in records if r["category_id"] == 3 * index + 2]
        counts = {r["score"]: _count(dataset, own, 3 * index + 2, r["score"]) for r in own}
        number = _count(dataset, [], 3 * index + 2, 0)[2]
        if not own or not number:
            assert point is None
            continue
        values = {
            s: (2 * r / (d + number), r / d, r / number) for s, (r, d, _) in counts.items() if d
        }
        f1, got_precision, recall = values[min(s for s in values if s >= point.threshold)]
        assert (point.f1, point.precision, point.recall) == pytest.approx(
            (f1, got_precision, recall)
        )
        if precision is None:
            assert f1 == max(v[0] for v in values.values())
        elif point.reached:
            assert recall == max(v[2] for v in values.values() if v[1] >= precision)
        else:
            assert got_precision == max(v[1] for v in values.values()) < precision
    matrix = points.confusion
    found = [int(point.detections) if point else 0 for point in points.of_class]
    for index, (row, point) in enumerate(zip(matrix, points.of_class)):
        if point is not None:
            assert row.sum() == point.objects
            assert matrix[:, index].sum() == found[index]
            assert matrix[index, index] == round(point.precision * point.detections)


def _count(dataset, records, category_id: int, least: float) -> tuple[int, int, int]:
    """Right ones, detections and objects of a class: greedy by score, apart from the package."""
    right = detections = objects = 0
    for image in dataset["images"]:
        of_image = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
        own = [a for a in of_image if a["category_id"] == category_id]
        free = [a for a in own if not a["iscrowd"]]
        crowds = [a["segmentation"] for a in own if a["iscrowd"]]
        objects += len(free)
        found = [r for r in records if r["image_id"] == image["id"] and r["score"] >= least]
        for record in sorted(found, key=lambda r: -r["score"]):
            masks = [a["segmentation"] for a in free]
            mask = record["segmentation"]
            ious = mask_util.iou([mask], masks, [0] * len(masks))[0] if masks else np.zeros(0)
            if len(ious) and ious.max() >= 0.5:
                free.pop(int(ious.argmax()))
                right, detections = right + 1, detections + 1
            elif not crowds or mask_util.iou([mask], crowds, [1] * len(crowds)).max() < 0.5:
                detections += 1
    return right, detections, objects


def test_equal_scores_are_not_divided():
    scores, right = np.array([0.9, 0.5, 0.5, 0.2]), np.array([True, True, False, False])
    point = choose_point(scores, right, 2, between=True)
    assert (point.threshold, point.precision, point.recall) == (pytest.approx(0.35), 2 / 3, 1)
    assert choose_point(scores, right, 2).threshold == 0.5
    assert choose_point(scores[:0], right[:0], 2).recall == 0


def test_scores_of_masks_do_not_move_thresholds(tmp_path):
    dataset, records = make_case(5)
    truth = write(tmp_path / "t.json", dataset)
    plain, _ = find_thresholds(truth, write(tmp_path / "a.json", records))
    scored = [{**record, "mask_score": 1 - record["score"]} for record in records]
    other, _ = find_thresholds(truth, write(tmp_path / "b.json", scored))
    assert [p and p.threshold for p in plain.of_class] == [
        p and p.threshold for p in other.of_class
    ]


def test_the_task_is_there_where_it_is_named():
    dataset, records = make_case(5)
    assert "operating_point" not in evaluate(dataset, records)
    got = evaluate(dataset, records, ["operating_point"])["operating_point"]
    assert list(got)[:4] == ["F1", "precision", "recall", "threshold"]
    assert {f"F1-{name}" for name in CLASSES} <= set(got)
    assert 0 < got["F1"] <= 100


def test_the_file_comes_back(tmp_path, capsys):
    dataset, records = make_case(5)
    truth, results = write(tmp_path / "t.json", dataset), write(tmp_path / "r.json", records)
    file, numbers = tmp_path / "thresholds.json", tmp_path / "numbers.json"
    arguments = [truth, results, "--tasks", "bbox", "--json", str(numbers)]
    assert command.main([*arguments, "--thresholds", str(file)]) == 0
    out = capsys.readouterr().out
    assert "best F1, segm at IoU 0.5" in out
    assert "rows are objects, columns detections" in out
    assert list(json.loads(numbers.read_text())) == ["bbox"]
    points, names = find_thresholds(truth, results)
    got = read_thresholds(file)
    assert got.default == points.overall.threshold
    assert [got.of_class[name] for name in names] == [p and p.threshold for p in points.of_class]
    assert json.loads(file.read_text())["confusion"]["matrix"] == points.confusion.tolist()
    with pytest.raises(SystemExit):
        command.main([truth, results, "--precision", "0.5"])
    assert "--precision goes with --thresholds" in capsys.readouterr().err
    arguments = [truth, results, "--tasks", "bbox", "--thresholds", str(file / "no")]
    assert command.main(arguments) == 1
    assert f"--thresholds {file / 'no'} cannot be written" in capsys.readouterr().err


def test_thresholds_go_to_the_models_classes_by_name():
    found = Thresholds("t.json", 0.4, {"cat": 0.6, "dog": None})
    assert found.for_classes(["dog", "emu", "cat"], 3) == [0.4, 0.4, 0.6]
    assert found.lowest == 0.4
    with pytest.raises(DataError, match="classes that the model does not have: dog"):
        found.for_classes(["cat"], 1)
    with pytest.raises(DataError, match="say them with --classes"):
        found.for_classes(None, 2)
    assert Thresholds("t.json", 0.4, {"cat": 0.6}).for_classes(None, 1) == [0.6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no file of thresholds"),
        ({"default": 2}, "'default': the threshold is 2"),
        ({"classes": []}, "'classes' is"),
        ({"classes": {"cat": {"threshold": "x"}}}, "class 'cat': the threshold is 'x'"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    content = {"format": "mrcnn_ext thresholds 1", "default": 0.5, "classes": {"cat": 0.5}}
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps(content))
    assert read_thresholds(file).of_class == {"cat": 0.5}
    file.write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=message):
        read_thresholds(file)
