# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The numbers of the report: against COCOeval, against brute force, on cases made by hand."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_ext.coco.index import load_ground_truth
from mrcnn_ext.data.shapes import ShapesSpec, generate_shapes
from mrcnn_ext.evaluation import EvaluationSettings
from mrcnn_ext.report.analysis import analyse, choose_task
from mrcnn_ext.report.build import read_detections
from mrcnn_ext.report.calibration import calibrate, choose_examples, image_scores, operating_point
from mrcnn_ext.report.error_kinds import (
    BKG,
    BOTH,
    CLS,
    DUP,
    IGNORED,
    LOC,
    RIGHT,
    average_precision,
)
from tests.report.made_up_results import made_up_results

NAMES = {RIGHT: "right", CLS: "cls", LOC: "loc", BOTH: "both", DUP: "dup", BKG: "bkg"}
BOX = [10, 10, 30, 30]
NEAR = [25, 10, 30, 30]  # IoU 1/3
FAR = [60, 60, 30, 30]


def _truth(tmp_path, *objects, images=1, classes=3):
    """Objects are (image, class, box[, crowd])."""
    annotations = [
        {
            "id": number,
            "image_id": entry[0],
            "category_id": entry[1],
            "bbox": list(entry[2]),
            "area": entry[2][2] * entry[2][3],
            "iscrowd": int(len(entry) > 3),
        }
        for number, entry in enumerate(objects, 1)
    ]
    content = {
        "images": [{"id": i + 1, "height": 100, "width": 100} for i in range(images)],
        "categories": [{"id": c + 1, "name": f"class {c + 1}"} for c in range(classes)],
        "annotations": annotations,
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    return load_ground_truth(file)


def _results(truth, *detections):
    """Detections are (image, class, box, score)."""
    entries = [
        {"image_id": d[0], "category_id": d[1], "bbox": list(d[2]), "score": d[3]}
        for d in detections
    ]
    return read_detections("run", entries, truth)


def _analysis(truth, results, task="bbox"):
    return analyse(
        truth, results, task=task, max_dets=100, score_threshold=None,
        settings=EvaluationSettings(),
    )  # fmt: skip


def _kinds(truth, results, task="bbox"):
    return _analysis(truth, results, task).kinds


# Truth, detections, errors, and what fixing that kind gives. Each is this one kind alone; where it
# leaves an object without a detection, that object is missed, too.
ONE_KIND = {
    "cls": ([(1, 1, BOX)], [(1, 2, BOX, 0.9)], {"cls": 1}, 1.0),
    "loc": ([(1, 1, BOX)], [(1, 1, NEAR, 0.9)], {"loc": 1}, 1.0),
    "both": ([(1, 1, BOX)], [(1, 2, NEAR, 0.9)], {"both": 1, "miss": 1}, 0.0),
    "dup": (
        [(1, 1, BOX), (1, 1, FAR)],
        [(1, 1, BOX, 0.9), (1, 1, BOX, 0.8), (1, 1, FAR, 0.7)],
        {"dup": 1},
        50 / 101 / 3,  # the second half of the recalls had precision 2/3
    ),
    "bkg": ([(1, 1, BOX)], [(1, 1, FAR, 0.9), (1, 1, BOX, 0.8)], {"bkg": 1}, 0.5),
    "miss": ([(1, 1, BOX), (1, 1, FAR)], [(1, 1, BOX, 0.9)], {"miss": 1}, 50 / 101),
}


@pytest.mark.parametrize("kind", ONE_KIND)
def test_each_kind_alone(kind, tmp_path):
    objects, detections, expected, gain = ONE_KIND[kind]
    truth = _truth(tmp_path, *objects)
    kinds = _kinds(truth, _results(truth, *detections))
    assert {k: n for k, n in kinds.counts().items() if n} == expected
    assert kinds.delta_ap()[kind] == pytest.approx(gain)


def test_only_the_best_of_several_errors_about_one_object_is_made_right(tmp_path):
    truth = _truth(tmp_path, (1, 1, BOX))
    results = _results(truth, (1, 2, BOX, 0.9), (1, 3, BOX, 0.8), (1, 1, FAR, 0.85))
    kinds = _kinds(truth, results)
    assert kinds.counts()["cls"] == 2
    assert kinds.delta_ap()["cls"] == pytest.approx(1.0)
    truth = _truth(tmp_path, (1, 1, BOX))
    results = _results(truth, (1, 2, BOX, 0.9), (1, 1, BOX, 0.5))  # the object is found
    assert _kinds(truth, results).delta_ap()["cls"] == 0


def test_detections_in_a_crowd_are_neither_right_nor_wrong(tmp_path):
    truth = _truth(tmp_path, (1, 1, BOX), (1, 1, [50, 50, 50, 50], "crowd"))
    inside = [60, 60, 10, 10]
    results = _results(truth, (1, 1, BOX, 0.9), (1, 1, inside, 0.8), (1, 2, inside, 0.7))
    analysis = _analysis(truth, results)
    kinds = analysis.kinds
    assert kinds.kind.tolist() == [RIGHT, IGNORED, BKG]  # a crowd of another class is nothing
    assert kinds.counts() == {"cls": 0, "loc": 0, "both": 0, "dup": 0, "bkg": 1, "miss": 0}
    assert not kinds.missed.any()
    counts = image_scores(truth, analysis.entries, analysis.matches, 0.0)
    assert counts == {1: {"tp": 1, "fp": 1, "fn": 0}}


def test_a_class_that_a_fix_leaves_without_instances(tmp_path):
    truth = _truth(tmp_path, (1, 1, BOX), (1, 2, FAR))
    found = (1, 1, BOX, 0.9)
    assert _kinds(truth, _results(truth, found)).delta_ap()["miss"] == pytest.approx(0.5)
    results = _results(truth, found, (1, 2, [50, 5, 9, 9], 0.3))  # something else is called so
    assert _kinds(truth, results).delta_ap()["miss"] == pytest.approx(0.0)


# --------------------------------------------------------------------------- brute force references


def _found(results):
    """Detections as plain dicts, numbered from 1."""
    return [{**e["record"], "id": e["id"]} for e in results.entries]


def _iou(a, b):
    width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def _ap50(truth, annotations, detections):
    """COCOeval's, with AP 1 or 0 for a class that has lost all of its instances."""
    with contextlib.redirect_stdout(io.StringIO()):
        gt, dt = COCO(), COCO()
        for coco, entries in ((gt, annotations), (dt, detections)):
            entries = [{**copy.deepcopy(e), "id": i} for i, e in enumerate(entries, 1)]
            for entry in entries:
                entry["area"] = entry["bbox"][2] * entry["bbox"][3]
            images, categories = truth.images, truth.categories
            coco.dataset = {"images": images, "categories": categories, "annotations": entries}
            coco.createIndex()
        evaluator = COCOeval(gt, dt, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    values = []
    precision = evaluator.eval["precision"][0, :, :, 0, 2]
    for k, category in enumerate(truth.categories):
        own = [a for a in truth.objects if a["category_id"] == category["id"]]
        if not any(not a["iscrowd"] for a in own):
            continue
        left = [a for a in annotations if a["category_id"] == category["id"] and not a["iscrowd"]]
        if left:
            values.append(precision[:, k].mean())
        else:
            values.append(float(not any(d["category_id"] == category["id"] for d in detections)))
    return np.mean(values)


def _greedy(truth, results):
    """Detection -> object, by falling score: the best that is free, with IoU 0.5 or more."""
    matched = {}
    for d in sorted(_found(results), key=lambda d: (d["image_id"], -d["score"])):
        best, chosen = 0.5, None
        for a in truth.objects:
            same = (a["image_id"], a["category_id"]) == (d["image_id"], d["category_id"])
            if same and a["id"] not in matched.values() and _iou(d["bbox"], a["bbox"]) >= best:
                best, chosen = _iou(d["bbox"], a["bbox"]), a["id"]
        if chosen is not None:
            matched[d["id"]] = chosen
    return matched


def _brute_force_kinds(truth, results, matched):
    kinds = {}
    for d in _found(results):
        if d["id"] in matched:
            continue
        here = [a for a in truth.objects if a["image_id"] == d["image_id"]]
        own = [
            (_iou(d["bbox"], a["bbox"]), a) for a in here if a["category_id"] == d["category_id"]
        ]
        other = [
            (_iou(d["bbox"], a["bbox"]), a) for a in here if a["category_id"] != d["category_id"]
        ]
        best_own = max(own, key=lambda p: p[0], default=(0, None))
        best_other = max(other, key=lambda p: p[0], default=(0, None))
        if 0.1 <= best_own[0] < 0.5:
            kinds[d["id"]] = "loc", best_own[1]
        elif best_other[0] >= 0.5:
            kinds[d["id"]] = "cls", best_other[1]
        elif best_own[0] >= 0.5:
            kinds[d["id"]] = "dup", None
        elif max(best_own[0], best_other[0]) < 0.1:
            kinds[d["id"]] = "bkg", None
        else:
            kinds[d["id"]] = "both", None
    return kinds


def _edited(truth, results, kinds, matched, fixed):
    """The detections after an oracle has gone over them, as boxes and classes."""
    best = {}
    for number, (kind, meant) in kinds.items():
        if kind == fixed and meant is not None and meant["id"] not in matched.values():
            score = results.entries[number - 1]["record"]["score"]
            best[meant["id"]] = max(best.get(meant["id"], (-1, 0)), (score, -number))
    out = []
    for d in _found(results):
        kind, meant = kinds.get(d["id"], ("right", None))
        if kind != fixed:
            out.append(d)
        elif meant is not None and best.get(meant["id"], (0, 0))[1] == -d["id"]:
            out.append({**d, "bbox": meant["bbox"], "category_id": meant["category_id"]})
    return out


def _random_scene(tmp_path, seed):
    rng = np.random.default_rng(seed)
    objects, detections = [], []
    for image in (1, 2, 3):
        for _ in range(rng.integers(0, 7)):
            box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(10, 40, 2)])
            objects.append((image, int(rng.integers(1, 4)), box.tolist()))
            for _ in range(rng.integers(0, 4)):
                moved = np.maximum(box + rng.normal(0, 5, 4), 1).tolist()
                wrong = rng.random() < 0.3
                category = int(rng.integers(1, 4)) if wrong else objects[-1][1]
                detections.append((image, category, moved, float(rng.random())))
        box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(10, 40, 2)]).tolist()
        detections.append((image, int(rng.integers(1, 4)), box, float(rng.random())))
    truth = _truth(tmp_path, *objects, images=3)
    return truth, _results(truth, *detections)


@pytest.mark.parametrize("seed", range(12))
def test_kinds_and_oracles_are_those_of_brute_force(seed, tmp_path):
    truth, results = _random_scene(tmp_path, seed)
    kinds = _kinds(truth, results)
    matched = _greedy(truth, results)
    expected = _brute_force_kinds(truth, results, matched)
    names = [expected.get(d["id"], ("right",))[0] for d in _found(results)]
    assert [NAMES[k] for k in kinds.kind.tolist()] == names

    about = {meant["id"] for _, meant in expected.values() if meant is not None}
    not_found = [a["id"] for a in truth.objects if a["id"] not in matched.values()]
    missed = [number for number in not_found if number not in about]
    assert (np.flatnonzero(kinds.missed) + 1).tolist() == missed

    base = _ap50(truth, truth.objects, _found(results))
    assert kinds.base_ap() == pytest.approx(base)
    gains = kinds.delta_ap()
    for kind in ("cls", "loc", "both", "dup", "bkg"):
        edited = _edited(truth, results, expected, matched, kind)
        assert gains[kind] == pytest.approx(_ap50(truth, truth.objects, edited) - base), kind
    right = [d for d in _found(results) if d["id"] in matched]
    assert gains["fp"] == pytest.approx(_ap50(truth, truth.objects, right) - base)
    for kind, gone in (("miss", missed), ("fn", not_found)):
        left = [a for a in truth.objects if a["id"] not in gone]
        assert gains[kind] == pytest.approx(_ap50(truth, left, _found(results)) - base), kind


# -------------------------------------------------------------------------------------- COCO's scores


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return generate_shapes(ShapesSpec("val", num_images=8, image_size=224), folder)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_scores_are_cocoevals(shapes, task):
    entries = made_up_results(shapes)
    truth = load_ground_truth(shapes)
    analysis = _analysis(truth, read_detections("run", entries, truth), task)
    curves = analysis.curves
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(shapes))
        own = [{k: v for k, v in e.items() if task == "bbox" or k != "bbox"} for e in entries]
        expected = COCOeval(gt, gt.loadRes(copy.deepcopy(own)), task)
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
    values = [curves.ap(), curves.ap(0.5), curves.ap(0.75)]
    values += [curves.ap(area=a) for a in ("small", "medium", "large")]
    np.testing.assert_allclose(np.nan_to_num(values, nan=-1), expected.stats[:6])
    recalls = [curves.ar(area=a) for a in ("all", "small", "medium", "large")]
    np.testing.assert_allclose(np.nan_to_num(recalls, nan=-1), expected.stats[8:])
    kinds = analysis.kinds
    assert kinds.base_ap() == pytest.approx(expected.stats[1])
    assert min(kinds.counts().values()) > 0
    assert curves.curve(0.5).mean() == pytest.approx(expected.stats[1])


def test_average_precision_without_anything():
    nothing = np.zeros(0)
    assert average_precision(nothing, nothing.astype(bool), 3) == 0
    assert average_precision(nothing, nothing.astype(bool), 0) == 1
    assert average_precision(np.ones(1), np.zeros(1, bool), 0) == 0


# ------------------------------------------------------------------------------------------- derived


@pytest.mark.parametrize("seed", range(4))
def test_operating_point_and_calibration_by_brute_force(seed, tmp_path):
    truth, results = _random_scene(tmp_path, seed + 50)
    # With ties.
    records = [{**d, "score": round(d["score"], 1)} for d in _found(results)]
    results = read_detections("run", records, truth)
    kinds = _kinds(truth, results)
    number = len(truth.objects)

    def at(threshold):
        kept = kinds.scores >= threshold
        found = int((kinds.kind[kept] == RIGHT).sum())
        return 2 * found / (kept.sum() + number), found, int(kept.sum())

    point = operating_point(kinds)
    assert point.f1 == pytest.approx(max(at(t)[0] for t in set(kinds.scores.tolist())))
    f1, found, kept = at(point.threshold)
    assert point.f1 == pytest.approx(f1)
    assert (point.precision, point.recall) == pytest.approx((found / kept, found / number))
    given_one = operating_point(kinds, 0.45)
    assert given_one.f1 == pytest.approx(at(0.45)[0])
    assert operating_point(kinds, 2.0).f1 == 0

    found = calibrate(kinds)
    assert found.count.sum() == len(kinds.scores)
    error = 0.0
    for index in range(10):
        inside = [
            (s, k == RIGHT)
            for s, k in zip(kinds.scores, kinds.kind)
            if min(int(s * 10), 9) == index
        ]
        if inside:
            scores, right = np.mean(inside, axis=0)
            error += len(inside) / len(kinds.scores) * abs(scores - right)
    assert found.error == pytest.approx(error)


def test_examples_are_the_lowest_and_the_highest_f1():
    counts = {
        1: {"tp": 3, "fp": 0, "fn": 0},
        2: {"tp": 0, "fp": 1, "fn": 0},
        3: {"tp": 0, "fp": 2, "fn": 5},
        4: {"tp": 0, "fp": 0, "fn": 0},  # has no F1
        5: {"tp": 1, "fp": 1, "fn": 0},
        6: {"tp": 1, "fp": 0, "fn": 0},
    }
    assert choose_examples([counts], 2) == ([3, 2], [1, 6])
    assert choose_examples([{1: counts[1]}], 3) == ([1], [])
    assert choose_examples([{4: counts[4]}], 3) == ([], [])


def test_objects_without_a_mask_are_crowds_to_masks(tmp_path):
    file = generate_shapes(ShapesSpec("val", num_images=4, image_size=96), tmp_path)
    content, entries = json.loads(file.read_text()), made_up_results(file)
    analyses = []
    for boxes_only in (True, False):
        for annotation in content["annotations"][::2]:
            x, y, width, height = annotation["bbox"]
            corners = [x, y, x, y + height, x + width, y + height, x + width, y]
            crowd = {"iscrowd": 1, "segmentation": [corners]}
            annotation |= {"segmentation": None} if boxes_only else crowd
        (tmp_path / "truth.json").write_text(json.dumps(content))
        truth = load_ground_truth(tmp_path / "truth.json")
        settings = EvaluationSettings(boxes_only=boxes_only)
        results = read_detections("run", entries, truth)
        rules = {"task": "segm", "max_dets": 100, "score_threshold": None, "settings": settings}
        analyses.append(analyse(truth, results, **rules))
    ours, theirs = (a.as_json(truth.class_names) for a in analyses)
    # Boxes are matched to all objects, so that no other object's mask is measured in their place.
    quality = [numbers.pop("masks_of_matched_boxes")["all"] for numbers in (ours, theirs)]
    assert 0 < quality[0]["pairs"] <= quality[1]["pairs"]
    assert ours == theirs
    assert analyses[0].image_counts == analyses[1].image_counts
    assert (analyses[0].instances == analyses[1].instances).all()
    assert choose_task(truth, [results], None, boxes_only=True) == "segm"
