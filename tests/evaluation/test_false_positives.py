# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""False positives an image: against plain loops, in images with and without objects."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from PIL import Image

from mrcnn_ext.data import register_coco
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.evaluation import EvaluationSettings, MrcnnExtCOCOEvaluator
from mrcnn_ext.evaluation.check_keys import check_evaluation
from mrcnn_ext.evaluation.tasks import TASKS
from tests.evaluation.evaluation_cases import assert_same, evaluate, make_case, write
from tests.helpers import small_cfg

NAME = "false_positives"
SCORES = (0.3, 0.5, 0.7)


def _area(box) -> float:
    return box[2] * box[3]


def _common(first, second) -> float:
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def _false(dataset: dict, records: list[dict], threshold: float) -> list[dict]:
    """In the order of falling scores, each takes the best free object of its class."""
    taken, wrong = set(), []
    for record in sorted(records, key=lambda r: -r["score"]):
        if record["score"] < threshold:
            continue
        best, place, ignored = 0.5, None, False
        for annotation in dataset["annotations"]:
            same = all(annotation[key] == record[key] for key in ("image_id", "category_id"))
            common = _common(annotation["bbox"], record["bbox"]) if same else 0.0
            if annotation["iscrowd"]:
                ignored |= same and common / _area(record["bbox"]) >= 0.5
            elif same and annotation["id"] not in taken:
                iou = common / (_area(annotation["bbox"]) + _area(record["bbox"]) - common)
                if iou >= best:
                    best, place = iou, annotation["id"]
        if place is not None:
            taken.add(place)
        elif not ignored:
            wrong.append(record)
    return wrong


def _case(seed: int) -> tuple[dict, list[dict]]:
    """With images that have no object, one of which has a crowd."""
    dataset, records = make_case(seed, images=8, keypoints=False)
    rng = np.random.default_rng(seed)
    emptied = {dataset["images"][0]["id"], dataset["images"][3]["id"]}
    crowded = dataset["images"][5]["id"]
    dataset["annotations"] = [a for a in dataset["annotations"] if a["image_id"] not in emptied]
    for annotation in dataset["annotations"]:
        annotation["iscrowd"] = int(annotation["iscrowd"] or annotation["image_id"] == crowded)
    for record in records:
        record["score"] = float(rng.random())
    return dataset, records


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_plain_loops(seed):
    dataset, records = _case(seed)
    numbers = evaluate(dataset, records, [NAME], score_thresholds=(0.7, 0.05, 0.3))[NAME]
    annotated = {a["image_id"] for a in dataset["annotations"]}
    negatives = [i["id"] for i in dataset["images"] if i["id"] not in annotated]
    assert numbers["negatives"] == len(negatives) >= 2
    images = len(dataset["images"])
    for threshold in (0.05, 0.3, 0.7):
        wrong = _false(dataset, records, threshold)
        assert numbers[f"FP@{threshold}"] == pytest.approx(len(wrong) / images)
        of_negative = [record for record in wrong if record["image_id"] in negatives]
        expected = len(of_negative) / len(negatives)
        assert numbers[f"FP_negatives@{threshold}"] == pytest.approx(expected)
        all_there = [r for r in records if r["image_id"] in negatives and r["score"] >= threshold]
        assert len(of_negative) == len(all_there)
        for category in dataset["categories"]:
            own = sum(record["category_id"] == category["id"] for record in wrong)
            found = numbers[f"FP@{threshold}-{category['name']}"]
            assert found == pytest.approx(own / images)
    assert len(numbers) == 3 * 2 + 1 + 3 * 4


def test_no_limit_of_detections_and_no_threshold_changes_another():
    dataset, records = _case(4)
    many = [dict(record) for record in records for _ in range(4)]
    whole = evaluate(dataset, many, [NAME], score_thresholds=(0.1, 0.6))[NAME]
    less = evaluate(dataset, many, [NAME], score_thresholds=(0.6,), max_dets=1)[NAME]
    assert_same(whole, less)


def test_without_objects_negatives_or_predictions():
    dataset, records = _case(0)
    empty = {**dataset, "annotations": []}
    numbers = evaluate(empty, records, [NAME])[NAME]
    for score in SCORES:
        expected = sum(record["score"] >= score for record in records) / 8
        assert numbers[f"FP@{score}"] == numbers[f"FP_negatives@{score}"] == pytest.approx(expected)
    chosen = [a["image_id"] for a in dataset["annotations"]]
    numbers = evaluate(dataset, records, [NAME], image_ids=chosen)[NAME]
    assert numbers["negatives"] == 0
    assert np.isnan(numbers["FP_negatives@0.5"])
    assert numbers["FP@0.3"] > 0
    numbers = evaluate(dataset, [], [NAME])[NAME]
    assert numbers == {
        **{f"FP@{score}": 0 for score in SCORES},
        **{f"FP_negatives@{score}": 0 for score in SCORES},
        "negatives": 8 - len(set(chosen)),
    }
    # Not all of them score enough, and of those that do none is wrong.
    weak = [{**record, "score": 0.01} for record in records]
    assert evaluate(dataset, weak, [NAME])[NAME]["FP@0.3"] == 0


def test_lvis_leaves_out_what_nobody_looked_for():
    dataset, records = _case(1)
    plain = evaluate(dataset, records, [NAME])[NAME]
    image = dataset["images"][0]  # without objects
    assert any(r["image_id"] == image["id"] and r["score"] >= 0.3 for r in records)
    lvis = evaluate(dataset, records, [NAME], lvis_style=True)[NAME]
    assert lvis["FP@0.3"] < plain["FP@0.3"]
    assert lvis["FP_negatives@0.3"] == 0
    for one in dataset["images"]:
        one["neg_category_ids"] = [category["id"] for category in dataset["categories"]]
    assert_same(evaluate(dataset, records, [NAME], lvis_style=True)[NAME], plain)


def test_names_of_metrics_and_scores_are_checked_before_training():
    task = TASKS[NAME]
    for metric in (*task.metrics, "FP@0.25", "FP@0", "FP@1", "FP@0.5-ring"):
        assert task.can_have(metric, ["ring", "star"]), metric
    for metric in ("FP", "FP@", "FP@x", "FP@0.5-gear", "FP_negatives@0.5-ring", "negatives-ring"):
        assert not task.can_have(metric, ["ring", "star"]), metric
    assert not task.can_have("FP@0.5-ring", ["ring"])
    with pytest.raises(
        ConfigError, match=r"score_thresholds has 1.5; expected numbers from 0 to 1"
    ):
        EvaluationSettings(score_thresholds=(0.5, 1.5))
    cfg = small_cfg()
    keys = cfg.MRCNN_EXT.EVALUATION
    keys.ENABLED, keys.BEST_MODE, keys.BEST_METRIC = True, "min", "false_positives/FP@0.5"
    check_evaluation(cfg)
    keys.BEST_METRIC = "false_positives/FP@0.4"
    with pytest.raises(ConfigError, match=r"FP@0.4.*FP@0.3"):
        check_evaluation(cfg)
    keys.BEST_METRIC = ""
    for scores in ([], [0.5, 2], ["high"]):
        keys.SCORE_THRESHOLDS = scores
        with pytest.raises(ConfigError, match=r"SCORE_THRESHOLDS is .* numbers from 0 to 1"):
            check_evaluation(cfg)


def test_images_without_annotations_are_loaded_and_evaluated(tmp_path):
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 32, "width": 32} for i in (1, 2, 3)
        ],
        "categories": [{"id": 1, "name": "ring"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 2,
                "category_id": 1,
                "iscrowd": 0,
                "area": 64,
                "bbox": [0, 0, 8, 8],
            }
        ],
    }
    for image in content["images"]:
        Image.new("RGB", (32, 32)).save(tmp_path / image["file_name"])
    name = f"mrcnn_ext_test_negatives_{tmp_path.name}"
    register_coco(name, write(tmp_path / "a.json", content), str(tmp_path))
    try:
        cfg = small_cfg()
        cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.MIN_SIZE_TEST = 0, 32
        loader = build_detection_test_loader(cfg, name)
        assert [inputs["image_id"] for batch in loader for inputs in batch] == [1, 2, 3]
        evaluator = MrcnnExtCOCOEvaluator(name, [NAME], False)
        evaluator.reset()
        record = {"image_id": 3, "category_id": 0, "bbox": [0, 0, 9, 9], "score": 0.6}
        evaluator._predictions = [{"image_id": 3, "instances": [record]}]
        numbers = evaluator.evaluate()[NAME]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert (numbers["FP@0.5"], numbers["FP_negatives@0.5"]) == (pytest.approx(1 / 3), 0.5)
    assert (numbers["FP@0.7"], numbers["negatives"]) == (0, 2)
