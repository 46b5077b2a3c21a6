# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Objects that have a box and no mask, where masks are evaluated."""

from __future__ import annotations

import copy
import json

import cv2
import numpy as np
import pytest
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from mrcnn_ext.coco.index import GroundTruth
from mrcnn_ext.coco.rle import box_rle
from mrcnn_ext.engine.check_lazy import check_lazy
from mrcnn_ext.engine.validation_loss import build_validation_loader
from mrcnn_ext.errors import DataError
from mrcnn_ext.evaluation import MrcnnExtCOCOEvaluator
from mrcnn_ext.evaluation import __main__ as command
from mrcnn_ext.evaluation.build import build_evaluator, coco_evaluator
from tests.evaluation.evaluation_cases import (
    assert_same,
    coco_of,
    evaluate,
    make_case,
    pycocotools_stats,
    stats_of,
    write,
)
from tests.helpers import REPO, small_cfg

LAZY = REPO / "configs" / "Shapes" / "mask_rcnn_Lite0_FPN.py"

MASK_TASKS = ["segm", "boundary", "mask_quality"]


def without_masks(dataset: dict, numbers) -> dict:
    """The data set with some annotations that have a box only."""
    changed = copy.deepcopy(dataset)
    for annotation in changed["annotations"]:
        if annotation["id"] in numbers:
            del annotation["segmentation"]
    return changed


def as_crowds(dataset: dict) -> dict:
    """The same with crowds in their place, whose polygon is the box: what pycocotools knows."""
    changed = copy.deepcopy(dataset)
    for annotation in changed["annotations"]:
        if "segmentation" not in annotation:
            x, y, width, height = annotation["bbox"]
            x1, y1 = x + width, y + height
            annotation["iscrowd"] = 1
            annotation["segmentation"] = [[x, y, x, y1, x1, y1, x1, y]]
    return changed


def chosen(dataset: dict, seed: int, share: float) -> set[int]:
    rng = np.random.default_rng(seed)
    return {a["id"] for a in dataset["annotations"] if rng.random() < share}


@pytest.mark.parametrize(("seed", "share", "limit"), [(1, 0.4, 100), (2, 0.7, 3), (3, 1.0, 100)])
def test_mask_ap_is_that_of_pycocotools_with_crowds_in_their_place(seed, share, limit):
    _compare_with_pycocotools(seed, share, limit)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.6, 1.0]), st.sampled_from([3, 100]))
def test_mask_ap_is_that_of_pycocotools_in_many_cases(seed, share, limit):
    _compare_with_pycocotools(seed, share, limit)


def _compare_with_pycocotools(seed: int, share: float, limit: int) -> None:
    dataset, records = make_case(seed, images=4, keypoints=False)
    if not records:
        return
    mixed = without_masks(dataset, chosen(dataset, seed, share))
    ours = evaluate(mixed, records, ["segm"], boxes_only=True, max_dets=limit)["segm"]
    theirs = pycocotools_stats(as_crowds(mixed), records, "segm", (1, min(10, limit - 1), limit))
    if limit == 100:
        assert_same(ours, stats_of(theirs, "segm"))
    precision = theirs.eval["precision"][..., -1]  # (T, R, K, A)
    for index, name in enumerate(["ring", "star", "gear", "never seen"]):
        values = precision[:, :, index, 0]
        values = values[values > -1]
        expected = 100 * values.mean() if values.size else np.nan
        np.testing.assert_allclose(ours[f"AP-{name}"], expected, rtol=0, atol=1e-9)
    number = sum("segmentation" not in a and not a["iscrowd"] for a in mixed["annotations"])
    assert ours.get("without_mask", 0) == number


@pytest.mark.parametrize("seed", [1])
def test_boxes_and_keypoints_count_all_objects(seed, backend):
    dataset, records = make_case(seed)
    mixed = without_masks(dataset, chosen(dataset, seed, 0.5))
    whole = evaluate(dataset, records, ["bbox", "keypoints", "pck"], backend=backend)
    names = ["bbox", "keypoints", "pck", *MASK_TASKS]
    found = evaluate(mixed, records, names, boxes_only=True, backend=backend)
    for task, numbers in whole.items():
        assert str(found[task]) == str(numbers)  # bit for bit, NaN too
    assert "without_mask" not in found["bbox"]


@pytest.mark.parametrize("task", ["segm", "boundary"])
def test_crowds_in_their_place_give_the_same_with_both_libraries(task, backend):
    dataset, records = make_case(11, images=6, keypoints=False)
    mixed = without_masks(dataset, chosen(dataset, 1, 0.5))
    rules = {"backend": backend}
    ours = evaluate(mixed, records, [task], boxes_only=True, **rules)[task]
    theirs = evaluate(as_crowds(mixed), records, [task], **rules)[task]
    assert ours.pop("without_mask") > 3
    assert_same(ours, theirs)
    lvis = {"lvis_style": True, "lvis_max_per_class": 20, **rules}
    ours = evaluate(mixed, records, [task], boxes_only=True, **lvis)[task]
    assert_same(ours, evaluate(as_crowds(mixed), records, [task], **lvis)[task])


def _square(number: int, x: int, *, mask: bool = True, score: float = 0.0) -> dict:
    corners = [x, 10, x + 20, 10, x + 20, 30, x, 30]
    entry = {"image_id": 1, "category_id": 1, "bbox": [x, 10, 20, 20]}
    entry |= {"segmentation": [corners]} if mask else {}
    return entry | ({"score": score} if score else {"id": number, "iscrowd": 0, "area": 400})


def _set(annotations: list[dict]) -> dict:
    return {
        "images": [{"id": 1, "height": 100, "width": 200, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "ring"}],
        "annotations": annotations,
    }


def _found(x: float, score: float) -> dict:
    record = _square(0, int(x), score=score)
    rle = mask_util.frPyObjects([[v + (i % 2 == 0) * (x % 1) for i, v in enumerate(
        record["segmentation"][0])]], 100, 200)[0]  # fmt: skip
    return {**record, "segmentation": rle}


def test_mask_quality_by_hand():
    """Boxes are matched to all objects; the matches of those without a mask are left out then."""
    dataset = _set([_square(1, 10), _square(2, 60, mask=False), _square(3, 64)])
    records = [_found(10, 0.9), _found(60, 0.8), _found(62, 0.7)]
    numbers = evaluate(dataset, records, ["mask_quality"], boxes_only=True)["mask_quality"]
    iou = (1 + 18 / 22) / 2  # the second detection is the second object's, the third the third's
    assert numbers["IoU"] == pytest.approx(100 * iou)
    assert (numbers["found"], numbers["matches"], numbers["without_mask"]) == (100, 2, 1)


def test_a_detection_in_the_box_is_no_mistake_and_one_beside_it_is():
    dataset = _set([_square(1, 10), _square(2, 60, mask=False)])
    right = _found(10, 0.5)
    for x, expected in ((60, 100), (69, 100), (75, 50), (150, 50)):
        numbers = evaluate(dataset, [right, _found(x, 0.9)], ["segm"], boxes_only=True)["segm"]
        assert numbers["AP50"] == pytest.approx(expected), x


def test_a_set_without_any_mask_has_no_number_of_masks(caplog):
    dataset = _set([_square(1, 10, mask=False), _square(2, 60, mask=False)])
    results = evaluate(dataset, [_found(10, 0.9)], boxes_only=True)
    assert caplog.text.count("no object has a mask") == 1
    for task in MASK_TASKS:
        assert results[task]["without_mask"] == 2
        measured = {k: v for k, v in results[task].items() if k not in ("matches", "without_mask")}
        assert np.isnan(list(measured.values())).all()
    assert results["bbox"]["AP"] == pytest.approx(50.5, abs=0.1)


def test_numbers_are_said_once(caplog):
    caplog.set_level("INFO", "detectron2")
    dataset = _set([_square(1, 10), _square(2, 60, mask=False)])
    evaluate(dataset, [_found(10, 0.9)], boxes_only=True)
    assert caplog.text.count("1 of 2 objects have a box and no mask") == 1


def test_boxes_are_drawn_as_pycocotools_draws_them_and_cut_at_the_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, y = rng.uniform(-30, 60, 2)
        width, height = rng.uniform(0.5, 60, 2)
        polygon = [x, y, x, y + height, x + width, y + height, x + width, y]
        expected = mask_util.decode(mask_util.frPyObjects([polygon], 40, 50)[0])
        found = mask_util.decode(box_rle([x, y, width, height], 40, 50))
        np.testing.assert_array_equal(found, expected)
    for box in ([-1e11, 0, 2e11, 40], [0, 0, 50, 40]):
        assert mask_util.area(box_rle(box, 40, 50)) == 2000
    for box in ([60, 0, 1e11, 5], [5, 5, 0, 0], [-9, 0, 3, 3]):
        assert mask_util.area(box_rle(box, 40, 50)) == 0


def test_the_ground_truth_itself_stays():
    dataset = _set([_square(1, 10), _square(2, 60, mask=False), _square(3, 64)])
    truth = GroundTruth(coco_of(dataset))
    masks = truth.for_masks()
    assert [entry["iscrowd"] for entry in masks.objects] == [0, 1, 0]
    assert [entry["iscrowd"] for entry in masks.by_pair[1, 1]] == [0, 1, 0]
    assert [entry["iscrowd"] for entry in truth.objects] == [0, 0, 0]
    assert (masks.num_instances, truth.num_instances, truth.num_without_mask) == (2, 3, 1)
    assert mask_util.area(masks.rle(masks.objects[1])) == 400
    with pytest.raises(DataError, match="annotation 2 has no 'segmentation'"):
        truth.rle(truth.objects[1])
    complete = GroundTruth(coco_of(_set([_square(1, 10)])))
    assert complete.for_masks() is complete


# ---- How it is asked for -------------------------------------------------------------------------


def test_the_command_says_what_to_do_and_does_it(tmp_path, capsys):
    dataset = write(tmp_path / "t.json", _set([_square(1, 10), _square(2, 60, mask=False)]))
    results = write(tmp_path / "r.json", [_square(0, 10, score=0.9)])
    assert command.main([dataset, results]) == 1
    error = capsys.readouterr().err
    assert "1 of 2 objects have no segmentation, the first: image 1, annotation 2" in error
    assert "--boxes-only" in error
    numbers = tmp_path / "n.json"
    assert command.main([dataset, results, "--boxes-only", "--json", str(numbers)]) == 0
    assert json.loads(numbers.read_text())["segm"]["AP"] == pytest.approx(100)
    assert "without_mask" in capsys.readouterr().out
    assert command.main([dataset, results, "--tasks", "bbox"]) == 0


@pytest.fixture
def mixed(tmp_path):
    """The name of a registered data set of which one object has no mask."""
    file = write(tmp_path / "mixed.json", _set([_square(1, 10), _square(2, 60, mask=False)]))
    name = f"mrcnn_ext_test_evaluated_{tmp_path.name}"
    register_coco_instances(name, {}, file, str(tmp_path))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("enabled", [False, True])
def test_the_config_decides(mixed, tmp_path, enabled):
    DatasetCatalog.get(mixed)  # which numbers the classes
    cfg = small_cfg()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(tmp_path), (mixed,)
    cfg.MRCNN_EXT.EVALUATION.ENABLED = enabled

    def build():
        own = lambda: COCOEvaluator(mixed, output_dir=str(tmp_path))  # noqa: E731
        return build_evaluator(cfg, mixed, own)

    with pytest.raises(DataError, match=r"1 of 2 objects have no .*BOXES_ONLY to True"):
        build()
    cfg.MRCNN_EXT.EVALUATION.TASKS = ["bbox"]
    if enabled:
        assert type(build()) is MrcnnExtCOCOEvaluator
    cfg.MRCNN_EXT.EVALUATION.TASKS = []
    cfg.MODEL.MASK_ON = False
    assert type(build()) is (MrcnnExtCOCOEvaluator if enabled else COCOEvaluator)
    cfg.MODEL.MASK_ON = cfg.MRCNN_EXT.DATA.BOXES_ONLY = True
    evaluator = build()
    assert type(evaluator) is MrcnnExtCOCOEvaluator
    assert evaluator._settings.boxes_only
    evaluator.reset()
    record = {**_found(10, 0.9), "category_id": 0}
    evaluator._predictions = [{"image_id": 1, "instances": [_text(record)]}]
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["segm"]["without_mask"] == 1


def _text(record: dict) -> dict:
    rle = record["segmentation"]
    return {**record, "segmentation": {**rle, "counts": rle["counts"].decode()}}


def test_the_evaluator_of_lazy_configs(mixed, tmp_path):
    make = {"dataset_name": mixed, "output_dir": str(tmp_path), "use_fast_impl": False}
    assert type(coco_evaluator(**make)) is COCOEvaluator
    assert type(coco_evaluator(**make, masks="Head", tasks=["bbox"])) is COCOEvaluator
    with pytest.raises(DataError, match=r"1 of 2 objects .* boxes_only=True"):
        coco_evaluator(**make, masks="Head")
    ours = coco_evaluator(**make, masks="Head", boxes_only=True)
    assert type(ours) is MrcnnExtCOCOEvaluator
    assert ours._settings.boxes_only


# ---- Before training ------------------------------------------------------------------------------


def test_a_lazy_config_is_refused_before_training(mixed):
    cfg = LazyConfig.load(str(LAZY))
    names = cfg.dataloader.train.dataset.names = cfg.dataloader.test.dataset.names = mixed
    dataset, cfg.model.roi_heads.num_classes = cfg.dataloader.train.dataset, 1
    with pytest.raises(DataError, match=r"1 of 2 objects .*train.mapper be .* boxes_only=True"):
        instantiate(dataset)
    cfg.dataloader.train.mapper.boxes_only = True
    assert len(instantiate(dataset)) == 1
    assert type(instantiate(cfg.dataloader.evaluator)) is MrcnnExtCOCOEvaluator
    check_lazy(cfg)
    cfg.dataloader.evaluator = LazyCall(COCOEvaluator)(dataset_name=names)
    with pytest.raises(DataError, match=r"1 of 2 .*dataloader.evaluator be .* boxes_only=True"):
        check_lazy(cfg)
    cfg.dataloader.evaluator = [LazyCall(MrcnnExtCOCOEvaluator)(dataset_name=names)]
    with pytest.raises(DataError, match=r"1 of 2 objects .* dataloader.evaluator"):
        check_lazy(cfg)
    assert len(instantiate(dataset)) == 1  # a list of evaluators does not hurt
    cfg.dataloader.evaluator[0].boxes_only = True
    check_lazy(cfg)
    cfg.dataloader.evaluator[0] = LazyCall(MrcnnExtCOCOEvaluator)(
        dataset_name=names, tasks=["bbox"]
    )
    check_lazy(cfg)
    del cfg.model.roi_heads.mask_head
    cfg.dataloader.evaluator = LazyCall(COCOEvaluator)(dataset_name=names)
    check_lazy(cfg)


def test_the_validation_loss_takes_objects_without_a_mask(mixed, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 200, 3), 90, dtype=np.uint8))
    cfg = small_cfg()
    cfg.INPUT.MASK_FORMAT, cfg.DATALOADER.NUM_WORKERS = "polygon", 0
    cfg.MRCNN_EXT.DATA.BOXES_ONLY = True
    cfg.MRCNN_EXT.DATA.MIN_AREA_LEFT = 1e9
    (batch,) = build_validation_loader(cfg, mixed)
    assert batch[0]["instances"].gt_has_mask.tolist() == [True, False]
