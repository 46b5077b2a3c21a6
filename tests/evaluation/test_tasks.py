# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The table of tasks: a new one appears everywhere; one object of settings; matches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mrcnn_ext.coco.index import Detections
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.evaluation import EvaluationSettings, GroundTruth, build_coco_evaluator
from mrcnn_ext.evaluation import __main__ as command
from mrcnn_ext.evaluation.at_true_boxes import given_boxes
from mrcnn_ext.evaluation.matched_boxes import match_instances
from mrcnn_ext.evaluation.overlaps import Overlaps
from mrcnn_ext.evaluation.tasks import TASKS, Task, TaskInput, choose_tasks, register_task
from mrcnn_ext.evaluation.tasks.ap import BOX_AP
from tests.evaluation.evaluation_cases import coco_of, evaluate, make_case, write
from tests.helpers import small_cfg


class Widest(Task):
    """A made-up metric, as a file in evaluation/tasks/ would have it."""

    name = "widest"
    needs = ("bbox",)
    metrics = ("width",)

    def evaluate(self, data: TaskInput) -> dict[str, float]:
        return {"width": max(entry["record"]["bbox"][2] for entry in data.detections.entries)}


@pytest.fixture
def widest(monkeypatch):
    tasks = dict(TASKS)
    register_task(Widest())
    yield
    TASKS.clear()
    TASKS.update(tasks)


def test_the_order_of_the_table_is_that_of_the_results():
    names = "bbox segm boundary false_positives mask_quality keypoints operating_point pck".split()
    assert list(TASKS) == names


def test_a_made_up_metric_appears_everywhere(widest, tmp_path, capsys):
    dataset, records = make_case(5)
    width = max(record["bbox"][2] for record in records)
    # Unasked, with the others.
    assert list(evaluate(dataset, records))[-1] == "widest"
    # In the config and in the evaluator that is built from it.
    cfg = small_cfg()
    cfg.MRCNN_EXT.EVALUATION.TASKS = ["widest"]
    evaluator = build_coco_evaluator(cfg, "mrcnn_ext_shapes_val", str(tmp_path))
    evaluator.reset()
    instances = Instances((96, 96), pred_boxes=Boxes(torch.tensor([[1.0, 2, 31, 12]])))
    instances.scores, instances.pred_classes = torch.tensor([0.5]), torch.tensor([0])
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    assert evaluator.evaluate() == {"widest": {"width": 30.0}}
    # On the command line.
    truth, results = write(tmp_path / "t.json", dataset), write(tmp_path / "r.json", records)
    numbers = tmp_path / "numbers.json"
    assert command.main([truth, results, "--tasks", "widest", "--json", str(numbers)]) == 0
    assert json.loads(numbers.read_text()) == {"widest": {"width": pytest.approx(width)}}
    assert f"{width:.2f}" in capsys.readouterr().out
    # Without predictions.
    assert np.isnan(evaluate(dataset, [], ["widest"])["widest"]["width"])
    with pytest.raises(ConfigError, match="two evaluation tasks are called 'widest'"):
        register_task(Widest())


def test_tasks_are_chosen_by_the_fields_of_the_records():
    names = [
        [task.name for task in choose_tasks(None, records)]
        for records in (
            [{"bbox": []}],
            [{"segmentation": {}}],
            [{"bbox": []}, {"bbox": [], "keypoints": []}],
            [],
        )
    ]
    assert names == [
        ["bbox", "false_positives"],
        ["segm", "boundary"],
        ["bbox", "false_positives", "keypoints", "pck"],
        ["bbox"],
    ]


def test_settings_are_the_same_from_config_command_line_and_arguments(monkeypatch):
    cfg = small_cfg()
    keys = cfg.MRCNN_EXT.EVALUATION
    keys.TASKS, keys.MAX_DETECTIONS, keys.BOUNDARY_DILATION = ["pck"], 40, 0.03
    keys.LVIS_STYLE, keys.LVIS_MAX_PER_CLASS, keys.BACKEND = True, 50, "pycocotools"
    keys.SCORE_THRESHOLDS, cfg.MRCNN_EXT.DATA.BOXES_ONLY = [0.1, 0.9], True
    keys.PCK_REFERENCE, cfg.TEST.KEYPOINT_OKS_SIGMAS = ["a", "b"], [0.1, 0.2]
    expected = EvaluationSettings(
        ("pck",), 40, 0.03, lvis_style=True, lvis_max_per_class=50, sigmas=(0.1, 0.2),
        pck_reference=("a", "b"), backend="pycocotools", boxes_only=True, score_thresholds=(0.1, 0.9),
    )  # fmt: skip
    assert EvaluationSettings.from_config(cfg, "mrcnn_ext_shapes_val") == expected
    given = {}
    monkeypatch.setattr(
        command, "evaluate_results_file", lambda *args, **kw: given.update(kw) or {}
    )
    line = """t.json r.json --tasks pck --max-dets 40 --boundary-dilation 0.03 --lvis-style
        --lvis-max-per-class 50 --sigmas .1 .2 --pck-reference a b --backend pycocotools
        --boxes-only --score-thresholds .1 .9"""
    assert command.main(line.split()) == 0
    as_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    assert EvaluationSettings(**as_tuples) == expected


@pytest.mark.parametrize("seed", range(4))
def test_matches_are_those_of_plain_loops(seed):
    dataset, records = make_case(seed, images=10)
    rng = np.random.default_rng(seed)
    records = [{**record, "score": float(rng.random())} for record in records]
    truth = GroundTruth(coco_of(dataset))
    found = Detections(records, truth)
    overlaps = Overlaps(truth, found)
    data = TaskInput(overlaps, EvaluationSettings(), truth.class_names)
    matches = BOX_AP.matching(data).matches()
    object_id, ignored = np.zeros(len(records)), np.zeros(len(records), bool)
    taken = set()
    for entry in sorted(found.entries, key=lambda e: -e["record"]["score"]):
        pair = entry["image_id"], entry["category_id"]
        objects = truth.by_pair.get(pair, [])
        row = overlaps.boxes(pair)[entry["row"]] if objects else []
        best = [(iou, o["id"]) for iou, o in zip(row, objects) if iou >= 0.5]
        free = [(i, n) for i, n in best if n not in taken and not truth.objects[n - 1]["iscrowd"]]
        if free:
            object_id[entry["id"] - 1] = max(free)[1]
            taken.add(max(free)[1])
        else:
            ignored[entry["id"] - 1] = any(truth.objects[n - 1]["iscrowd"] for _, n in best)
    np.testing.assert_array_equal(matches.object_id, object_id)
    np.testing.assert_array_equal(matches.ignored, ignored)
    assert ignored.any() or seed
    for number, detection in enumerate(matches.detection_id, 1):
        assert (object_id == number).any() == bool(detection)
        assert not detection or object_id[detection - 1] == number


def test_boxes_given_to_a_model_and_instances_that_match_them():
    boxes, classes = [[10, 20, 30, 40], [10, 20, 30, 41], [50, 50, 70, 90]], [1, 2, 1]
    inputs = {"image": torch.zeros(3, 200, 50), "height": 100, "width": 100}
    given = given_boxes(inputs, boxes, classes)
    assert given.image_size == (200, 50)
    assert given.pred_boxes.tensor[0].tolist() == [5, 40, 15, 80]
    assert given.place.tolist() == [0, 1, 2]
    output = Instances((100, 100))
    output.pred_boxes = Boxes(
        torch.tensor([[50.0, 50, 70, 88], [10, 20, 30, 40], [51, 50, 70, 90]])
    )
    output.pred_classes = torch.tensor([1, 2, 1])
    output.scores = torch.tensor([0.5, 0.4, 0.9])
    assert match_instances(output, boxes, classes) == [(2, 2), (1, 1)]
