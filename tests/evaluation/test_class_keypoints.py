# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Several skeletons in one model: each class is evaluated and written with its own keypoints."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_ext.data import register_coco_pose
from mrcnn_ext.errors import DataError
from mrcnn_ext.evaluation import MrcnnExtCOCOEvaluator
from mrcnn_ext.evaluation.class_keypoints import cut_to_class, oks_sigmas
from mrcnn_ext.evaluation.results_file import evaluate_results_file
from mrcnn_ext.predict.writer import PredictionWriter
from mrcnn_ext.skeletons import DEFAULT_SIGMA, SkeletonSet

CATEGORIES = [
    {"id": 3, "name": "crane", "keypoints": ["base", "elbow", "hook"], "sigmas": [0.05, 0.1, 0.2]},
    {"id": 5, "name": "ball"},
    {"id": 9, "name": "bird", "keypoints": ["left_wing", "right_wing"]},
]
NAME = "mrcnn_ext_test_class_keypoints"
SIZE = 100


@pytest.fixture
def dataset(tmp_path):
    """A registered data set, its json, and noisy predictions of all its objects."""
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": CATEGORIES}
    for image_id in range(1, 7):
        content["images"].append(
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": SIZE, "width": SIZE}
        )
        for category in CATEGORIES:
            x, y = rng.integers(0, 40, 2).tolist()
            entry = {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": category["id"],
                "bbox": [x, y, 50, 40],
                "area": 2000,
                "iscrowd": 0,
            }
            number = len(category.get("keypoints", ()))
            if number:
                points = rng.uniform((x, y), (x + 50, y + 40), (number, 2)).round(2)
                seen = rng.integers(0, 3, number)
                seen[0] = 2
                entry["keypoints"] = np.column_stack([points, seen]).ravel().tolist()
                entry["num_keypoints"] = int((seen > 0).sum())
            content["annotations"].append(entry)
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    register_coco_pose(NAME, file, tmp_path)
    yield file, content
    DatasetCatalog.pop(NAME)
    MetadataCatalog.pop(NAME)


def _predictions(content: dict, skeletons: SkeletonSet) -> dict[int, Instances]:
    """By image: the truth in the flat layout, shifted; other classes' slots hold nonsense."""
    rng = np.random.default_rng(1)
    order = [c["id"] for c in CATEGORIES]
    out = {}
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        keypoints = torch.full((len(own), skeletons.num_keypoints, 3), 7.0)
        for row, entry in enumerate(own):
            slots = skeletons.slots(order.index(entry["category_id"]))
            points = np.reshape(entry.get("keypoints", []), (-1, 3))
            noisy = points[:, :2] + rng.normal(0, 4, (len(points), 2)) + 0.5
            scores = rng.random((len(points), 1))
            keypoints[row, slots.start : slots.stop] = torch.tensor(
                np.hstack([noisy, scores])
            ).float()
        instances = Instances((SIZE, SIZE))
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.tensor(rng.random(len(own))).float()
        instances.pred_classes = torch.tensor([order.index(a["category_id"]) for a in own])
        instances.pred_keypoints = keypoints
        out[image["id"]] = instances
    return out


def _expected(content: dict, found: list[dict]) -> list[float]:
    """AP by pycocotools, a category at a time, in percent."""
    values = []
    for category, sigmas in ((3, [0.05, 0.1, 0.2]), (9, [DEFAULT_SIGMA] * 2)):
        truth, results = COCO(), COCO()
        for coco, entries in ((truth, content["annotations"]), (results, found)):
            own = [dict(e) for e in entries if e["category_id"] == category]
            for number, entry in enumerate(own, 1):
                entry.update(id=number, area=entry.get("area", entry["bbox"][2] * entry["bbox"][3]))
            coco.dataset = {**content, "annotations": own}
            coco.createIndex()
        evaluator = COCOeval(truth, results, "keypoints")
        evaluator.params.kpt_oks_sigmas = np.array(sigmas)
        evaluator.params.catIds = [category]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        values.append(100 * evaluator.stats[0])
    return values


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_evaluation_by_class(dataset, tmp_path, backend):
    if backend == "faster_coco_eval":
        pytest.importorskip("faster_coco_eval")
    file, content = dataset
    skeletons = MetadataCatalog.get(NAME).mrcnn_ext_skeletons
    evaluator = MrcnnExtCOCOEvaluator(
        NAME, ("bbox", "keypoints"), False, str(tmp_path), backend=backend
    )
    evaluator.reset()
    for image_id, instances in _predictions(content, skeletons).items():
        before = instances.pred_keypoints.clone()
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        assert torch.equal(instances.pred_keypoints, before)
    results = evaluator.evaluate()["keypoints"]
    found = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {(r["category_id"], len(r.get("keypoints", ()))) for r in found} == {
        (3, 9),
        (5, 0),
        (9, 6),
    }
    crane, bird = _expected(content, found)
    assert results["AP-crane"] == pytest.approx(crane, abs=1e-9)
    assert results["AP-bird"] == pytest.approx(bird, abs=1e-9)
    assert results["AP"] == pytest.approx((crane + bird) / 2, abs=1e-9)
    assert 0 < results["AP"] < 100
    again = evaluate_results_file(
        file, tmp_path / "coco_instances_results.json", ("keypoints",), backend=backend
    )
    assert again["keypoints"]["AP"] == pytest.approx(results["AP"], abs=1e-9)


def test_sigmas_of_the_flat_layout_are_cut(dataset):
    metadata = MetadataCatalog.get(NAME)
    assert oks_sigmas((), metadata, CATEGORIES) == {
        3: (0.05, 0.1, 0.2),
        9: (DEFAULT_SIGMA, DEFAULT_SIGMA),
    }
    given = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert oks_sigmas(given, metadata, CATEGORIES) == {3: (0.1, 0.2, 0.3), 9: (0.4, 0.5)}
    # A json alone, and one that says nothing of keypoints
    assert oks_sigmas((), Metadata(), CATEGORIES)[3] == (0.05, 0.1, 0.2)
    assert len(oks_sigmas((), Metadata(), [{"id": 1, "name": "person"}])) == 17


def test_written_predictions_have_the_keypoints_of_their_class(dataset, tmp_path):
    _, content = dataset
    metadata = MetadataCatalog.get(NAME)
    writer = PredictionWriter(tmp_path / "out", metadata)
    instances = _predictions(content, metadata.mrcnn_ext_skeletons)[1]
    writer.add("1.jpg", instances)
    writer.close()
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert written["keypoints"] == {
        "crane": ["base", "elbow", "hook"],
        "bird": ["left_wing", "right_wing"],
    }
    crane, ball, bird = written["images"][0]["instances"]
    np.testing.assert_allclose(crane["keypoints"], instances.pred_keypoints[0, :3])
    np.testing.assert_allclose(bird["keypoints"], instances.pred_keypoints[2, 3:])
    assert "keypoints" not in ball
    coco = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert [len(entry.get("keypoints", ())) for entry in coco] == [9, 0, 6]


def test_another_number_of_keypoints_is_an_error():
    skeletons = SkeletonSet.from_coco_categories(CATEGORIES)
    assert cut_to_class([1, 2, 3, 4, 5], 2, skeletons) == [4, 5]
    assert cut_to_class([1, 2], 2, skeletons) == [1, 2]
    assert cut_to_class([1, 2], 1, skeletons) is None
    assert cut_to_class([1, 2], 2, None) == [1, 2]
    with pytest.raises(
        DataError, match=r"class 2 \('bird'\) has 4 keypoints; expected 2, or all 5"
    ):
        cut_to_class([1, 2, 3, 4], 2, skeletons)
