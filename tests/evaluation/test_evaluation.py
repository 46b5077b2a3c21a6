# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The evaluator: numbers against pycocotools and Detectron2, rules, errors."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, print_csv_format
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from mrcnn_ext.errors import ConfigError, DataError
from mrcnn_ext.evaluation import (
    EvaluationSettings,
    GroundTruth,
    MrcnnExtCOCOEvaluator,
    evaluate_records,
    evaluate_results_file,
)
from mrcnn_ext.evaluation.matched_boxes import match_boxes
from tests.evaluation.evaluation_cases import (
    BACKENDS,
    CLASSES,
    SIGMAS,
    assert_same,
    coco_of,
    encode,
    evaluate,
    make_case,
    pycocotools_stats,
    stats_of,
    write,
)
from tests.helpers import run_python


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools(seed, task, backend):
    dataset, records = make_case(seed, images=12)
    ours = evaluate(dataset, records, [task], backend=backend)[task]
    theirs = pycocotools_stats(dataset, records, task, sigmas=SIGMAS)
    assert_same(ours, stats_of(theirs, task))
    assert ours["AP"] > 0
    for index, name in enumerate(CLASSES):
        values = theirs.eval["precision"][:, :, index, 0, -1]
        values = values[values > -1]
        expected = values.mean() * 100 if values.size else np.nan
        np.testing.assert_allclose(ours[f"AP-{name}"], expected, rtol=0, atol=1e-9)


def test_both_libraries_agree_on_every_task():
    pytest.importorskip("faster_coco_eval")
    dataset, records = make_case(7, images=20)
    first, second = (evaluate(dataset, records, backend=name) for name in BACKENDS)
    names = ["bbox", "segm", "boundary", "false_positives", "mask_quality", "keypoints", "pck"]
    assert list(first) == names
    for task in first:
        assert first[task].keys() == second[task].keys()
        assert_same(first[task], second[task])


def test_image_ids_choose_images(backend):
    dataset, records = make_case(3)
    chosen = [image["id"] for image in dataset["images"]][:3]
    ours = evaluate(dataset, records, ["bbox"], image_ids=chosen, backend=backend)
    part = dict(dataset)
    part["images"] = [image for image in dataset["images"] if image["id"] in chosen]
    part["annotations"] = [a for a in dataset["annotations"] if a["image_id"] in chosen]
    kept = [record for record in records if record["image_id"] in chosen]
    assert_same(ours["bbox"], evaluate(part, kept, ["bbox"], backend=backend)["bbox"])


def test_inputs_are_left_as_they_are(backend):
    dataset, records = make_case(1)
    coco = coco_of(dataset)
    before = json.dumps([coco.dataset, records])
    evaluate_records(records, GroundTruth(coco), EvaluationSettings(sigmas=SIGMAS, backend=backend))
    assert json.dumps([coco.dataset, records]) == before


def test_an_object_with_id_0_can_be_found(backend):
    """pycocotools takes id 0 for 'not matched'."""
    dataset, _ = _grid(1)
    dataset["annotations"][0]["id"] = 0
    record = {**dataset["annotations"][0], "score": 0.5}
    assert evaluate(dataset, [record], ["bbox", "segm"], backend=backend)["segm"]["AP"] == (
        pytest.approx(100)
    )


# ---- many detections -----------------------------------------------------------------------------


def _grid(count, size=4):
    """``count`` squares of one class in one image, each found, with falling scores."""
    columns = 20
    width, height = columns * (size + 2), (count // columns + 1) * (size + 2)
    dataset = {
        "images": [{"id": 5, "width": width, "height": height, "file_name": "5.jpg"}],
        "categories": [{"id": 1, "name": "nucleus"}],
        "annotations": [],
    }
    records = []
    for index in range(count):
        x, y = (index % columns) * (size + 2), (index // columns) * (size + 2)
        mask = np.zeros((height, width))
        mask[y : y + size, x : x + size] = 1
        common = {
            "image_id": 5,
            "category_id": 1,
            "bbox": [x, y, size, size],
            "segmentation": encode(mask),
        }
        annotation = {**common, "id": index + 1, "area": size * size, "iscrowd": 0}
        dataset["annotations"].append(annotation)
        records.append({**common, "score": 1 - index / count / 2})
    return dataset, records


def test_no_detection_is_cut_off_silently(backend):
    dataset, records = _grid(150)
    results = evaluate(dataset, records, ["bbox", "segm"], backend=backend)
    for task in ("bbox", "segm"):
        assert results[task]["AR@150"] == pytest.approx(100)
        assert results[task]["AR@1"] == pytest.approx(100 / 150)
        assert results[task]["AP"] == pytest.approx(100)
        assert "AR@100" not in results[task]


def test_a_limit_that_is_asked_for_is_kept_and_said(backend, caplog):
    dataset, records = _grid(150)
    with caplog.at_level("WARNING"):
        results = evaluate(dataset, records, ["bbox"], max_dets=120, backend=backend)["bbox"]
    assert results["AR@120"] == pytest.approx(80)
    assert "150 detections; the limit is 120" in caplog.text
    theirs = pycocotools_stats(dataset, records, "bbox", max_dets=(1, 10, 120)).eval["recall"]
    assert results["AR@120"] == pytest.approx(theirs[:, 0, 0, 2].mean() * 100, abs=1e-9)


# ---- scores of masks -----------------------------------------------------------------------------


def test_mask_scores_rank_masks_and_nothing_else(backend):
    dataset, records = make_case(4, images=12)
    rng = np.random.default_rng(0)
    scored = [{**record, "mask_score": float(rng.random())} for record in records]
    plain = evaluate(dataset, records, backend=backend)
    ours = evaluate(dataset, scored, backend=backend)
    for task in ("bbox", "keypoints", "mask_quality"):
        assert_same(ours[task], plain[task])
    replaced = [{**record, "score": record["mask_score"]} for record in scored]
    other = evaluate(dataset, replaced, ["segm", "boundary"], backend=backend)
    for task in ("segm", "boundary"):
        assert_same(ours[task], other[task])
        assert ours[task]["AP"] != plain[task]["AP"]


# ---- mask quality --------------------------------------------------------------------------------


def _square(x, y, w, h, size=100):
    mask = np.zeros((size, size))
    mask[y : y + h, x : x + w] = 1
    return mask


def test_mask_quality_by_hand():
    common = {"image_id": 1, "category_id": 1}
    dataset = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "other"}],
        "annotations": [
            {**common, "id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0,
             "segmentation": encode(_square(10, 10, 40, 40))},
            {**common, "id": 2, "bbox": [60, 60, 20, 20], "area": 400, "iscrowd": 0,
             "segmentation": encode(_square(60, 60, 20, 20))},
            {**common, "id": 3, "bbox": [0, 0, 100, 100], "area": 9000, "iscrowd": 1,
             "segmentation": encode(_square(0, 0, 100, 90))},
        ],
    }  # fmt: skip
    records = [
        # The right box with half of the mask; a worse double of it; a right box of another class.
        {**common, "bbox": [10, 10, 40, 40], "score": 0.9,
         "segmentation": encode(_square(10, 10, 20, 40))},
        {**common, "bbox": [10, 10, 40, 39], "score": 0.8,
         "segmentation": encode(_square(10, 10, 40, 40))},
        {**common, "category_id": 2, "bbox": [60, 60, 20, 20], "score": 0.7,
         "segmentation": encode(_square(60, 60, 20, 20))},
    ]  # fmt: skip
    results = evaluate(dataset, records, ["mask_quality"])["mask_quality"]
    assert results["IoU"] == results["IoUm"] == pytest.approx(50)
    assert np.isnan(results["IoUs"])
    assert results["matches"] == 1
    assert results["found"] == pytest.approx(50)
    # Boundaries are 3 pixels wide. Common: all of the half's boundary but its inner right side.
    inner, outer = 20 * 40 - 14 * 34, 40 * 40 - 34 * 34
    common_pixels = inner - 3 * 34
    expected = common_pixels / (inner + outer - common_pixels)
    assert results["boundary_IoU"] == pytest.approx(100 * expected)


def test_boxes_match_best_score_first():
    overlaps = np.array([[0.6, 0.7], [0.9, 0.95], [0.2, 0.9]])
    scores = np.array([0.5, 0.9, 0.9])
    crowds = np.array([False, False])
    assert match_boxes(overlaps, scores, crowds, 0.5) == [(1, 1), (0, 0)]
    assert match_boxes(overlaps, scores, ~crowds, 0.5) == []


# ---- keypoints -----------------------------------------------------------------------------------


def test_sigmas_by_category(backend):
    dataset, records = make_case(2, images=10)
    wide = tuple(3 * sigma for sigma in SIGMAS)
    by_name = dict.fromkeys(CLASSES, SIGMAS)
    equal = evaluate(dataset, records, ["keypoints"], sigmas=by_name, backend=backend)
    plain = evaluate(dataset, records, ["keypoints"], backend=backend)
    assert_same(equal["keypoints"], plain["keypoints"])
    mixed = {**by_name, "star": wide, "gear": None}
    mixed = {name: sigmas for name, sigmas in mixed.items() if sigmas}
    ours = evaluate(dataset, records, ["keypoints"], sigmas=mixed, backend=backend)["keypoints"]
    all_wide = evaluate(dataset, records, ["keypoints"], sigmas=wide, backend=backend)["keypoints"]
    assert ours["AP-ring"] == plain["keypoints"]["AP-ring"]
    assert ours["AP-star"] == all_wide["AP-star"]
    assert np.isnan(ours["AP-gear"])


def test_sigmas_that_do_not_fit_are_an_error():
    dataset, records = make_case(2)
    with pytest.raises(ConfigError, match=r"has 5 keypoints.* there are 17 sigmas.*KEYPOINT_OKS"):
        evaluate_records(records, GroundTruth(coco_of(dataset)), EvaluationSettings(["keypoints"]))
    with pytest.raises(ConfigError, match="above 0"):
        evaluate(dataset, records, ["keypoints"], sigmas=[0.1, 0, 0.1, 0.1, 0.1])
    for record in records:
        record["keypoints"] = record["keypoints"] + [0, 0, 0]
    with pytest.raises(ConfigError, match="predictions have 6"):
        evaluate(dataset, records, ["keypoints"])


# ---- as an evaluator of Detectron2 ---------------------------------------------------------------


@pytest.fixture
def registered(tmp_path):
    names = []

    def register(dataset, **metadata):
        name = f"evaluation_test_{len(names)}"
        register_coco_instances(name, metadata, write(tmp_path / f"{name}.json", dataset), "")
        DatasetCatalog.get(name)  # fills the metadata
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _outputs(dataset, records):
    """What a model would return for the images of ``dataset``."""
    inputs, outputs = [], []
    contiguous = {c["id"]: i for i, c in enumerate(dataset["categories"])}
    for image in dataset["images"]:
        mine = [record for record in records if record["image_id"] == image["id"]]
        instances = Instances((image["height"], image["width"]))
        boxes = torch.tensor([r["bbox"] for r in mine]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.tensor([r["score"] for r in mine])
        instances.pred_classes = torch.tensor(
            [contiguous[r["category_id"]] for r in mine], dtype=torch.int64
        )
        masks = [mask_util.decode(r["segmentation"]) for r in mine]
        shape = (0, image["height"], image["width"])
        masks = np.stack(masks) if masks else np.zeros(shape, dtype=np.uint8)
        instances.pred_masks = torch.from_numpy(masks).bool()
        instances.pred_keypoints = torch.tensor([r["keypoints"] for r in mine]).reshape(-1, 5, 3)
        inputs.append({"image_id": image["id"], "file_name": image["file_name"]})
        outputs.append({"instances": instances})
    return inputs, outputs


def _run(evaluator, inputs, outputs):
    evaluator.reset()
    for one_input, output in zip(inputs, outputs):
        evaluator.process([one_input], [output])
    return evaluator.evaluate()


def test_same_numbers_and_files_as_detectron2(registered, tmp_path):
    dataset, records = make_case(5, images=10)
    name = registered(dataset)
    inputs, outputs = _outputs(dataset, records)
    keypoints = [output["instances"].pred_keypoints.clone() for output in outputs]
    ours = _run(
        MrcnnExtCOCOEvaluator(name, output_dir=str(tmp_path / "ours"), kpt_oks_sigmas=SIGMAS),
        inputs, outputs,
    )  # fmt: skip
    for output, before in zip(outputs, keypoints):
        assert torch.equal(output["instances"].pred_keypoints, before)
    stock = COCOEvaluator(
        name, output_dir=str(tmp_path / "stock"), kpt_oks_sigmas=list(SIGMAS), use_fast_impl=False
    )
    theirs = _run(stock, inputs, outputs)
    assert set(theirs) == {"bbox", "segm", "keypoints"}
    for task in theirs:
        assert theirs[task].keys() <= ours[task].keys()
        assert_same(ours[task], theirs[task])
    files = [
        json.loads((tmp_path / run / "coco_instances_results.json").read_text())
        for run in ("ours", "stock")
    ]
    assert files[0] == files[1]
    assert (tmp_path / "ours" / "instances_predictions.pth").is_file()
    print_csv_format(ours)
    # The saved file gives the same numbers once more.
    again = evaluate_results_file(
        name, tmp_path / "ours" / "coco_instances_results.json", sigmas=SIGMAS
    )
    assert again.keys() == ours.keys()
    for task in again:
        assert_same(again[task], ours[task])


def test_mask_scores_of_instances_reach_the_json(registered, tmp_path):
    dataset, records = make_case(5)
    name = registered(dataset)
    inputs, outputs = _outputs(dataset, records)
    for output in outputs:
        output["instances"].mask_scores = 1 - output["instances"].scores
    tasks = ("bbox", "segm", "boundary")
    evaluator = MrcnnExtCOCOEvaluator(name, tasks, output_dir=str(tmp_path))
    results = _run(evaluator, inputs, outputs)
    assert list(results) == list(tasks)
    saved = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert all(r["mask_score"] == pytest.approx(1 - r["score"]) for r in saved)


def test_sigmas_by_argument_then_metadata_then_coco(registered):
    name = registered(make_case(5)[0], keypoint_oks_sigmas=[0.1] * 5)
    assert list(MrcnnExtCOCOEvaluator(name)._settings.sigmas) == [0.1] * 5
    given = MrcnnExtCOCOEvaluator(name, kpt_oks_sigmas=SIGMAS)
    assert tuple(given._settings.sigmas) == SIGMAS
    plain = MrcnnExtCOCOEvaluator(registered(make_case(6)[0]))
    assert len(plain._settings.sigmas) == 17


def test_no_predictions_at_all(registered):
    dataset, _ = make_case(5)
    name = registered(dataset)
    inputs, outputs = _outputs(dataset, [])
    ours = _run(MrcnnExtCOCOEvaluator(name, ("bbox", "segm")), inputs, outputs)
    stock = COCOEvaluator(name, ("bbox", "segm"), use_fast_impl=False)
    theirs = _run(stock, inputs, outputs)
    assert ours.keys() == theirs.keys() == {"bbox", "segm"}
    assert all(np.isnan(value) for value in ours["segm"].values())


def test_images_and_classes_that_are_not_there(registered):
    dataset, records = make_case(5)
    name = registered(dataset)
    inputs, outputs = _outputs(dataset, records)
    busy = next(i for i, output in enumerate(outputs) if len(output["instances"]))
    inputs[busy]["image_id"] = 4711
    with pytest.raises(DataError, match=r"image id 4711, which is not in .*\.json"):
        _run(MrcnnExtCOCOEvaluator(name), inputs, outputs)
    inputs[busy]["image_id"] = dataset["images"][busy]["id"]
    masks = outputs[busy]["instances"].pred_masks
    outputs[busy]["instances"].pred_masks = torch.nn.functional.pad(masks, (0, 1))
    with pytest.raises(DataError, match=r"a predicted mask for image id .* pixels, but the image"):
        _run(MrcnnExtCOCOEvaluator(name), inputs, outputs)
    outputs[busy]["instances"].pred_classes[0] = 99
    with pytest.raises(DataError, match=r"class 99, but .* has 4 classes, 0 to 3"):
        _run(MrcnnExtCOCOEvaluator(name), inputs, outputs)


def test_bad_arguments_are_named(registered, tmp_path):
    name = registered(make_case(5)[0])
    with pytest.raises(ConfigError, match="task 'mask' is unknown; there are: bbox"):
        MrcnnExtCOCOEvaluator(name, ("mask",))
    with pytest.raises(ConfigError, match="max_dets is -1"):
        MrcnnExtCOCOEvaluator(name, max_dets_per_image=-1)
    with pytest.raises(ConfigError, match="boundary_dilation is 2"):
        MrcnnExtCOCOEvaluator(name, boundary_dilation=2)
    with pytest.raises(ConfigError, match="backend is 'fast'"):
        MrcnnExtCOCOEvaluator(name, backend="fast")
    json_file = MetadataCatalog.get(name).json_file
    with open(json_file, "w") as file:
        file.write('{"images": [')
    with pytest.raises(DataError, match="is no COCO ground truth"):
        MrcnnExtCOCOEvaluator(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["annotations"][2].update(area=None),
            "annotation .*: area None is not a number",
        ),
        (lambda c: c["annotations"][2].update(bbox="box"), "annotation .*: bbox 'box' is not x, y"),
        (
            lambda c: c["annotations"][2].update(category_id=77),
            "annotation .* category_id 77 is not",
        ),
        (lambda c: c["annotations"][2].pop("image_id"), "annotation .*: its image_id is not among"),
        (lambda c: c["images"][0].pop("height"), "image .* has no height and width"),
        (lambda c: c["categories"][0].pop("id"), "expected categories with an id each"),
    ],
)
def test_a_bad_entry_of_the_ground_truth_is_named(registered, change, message):
    dataset = make_case(5)[0]
    name = registered(dataset)
    change(dataset)
    file = MetadataCatalog.get(name).json_file
    Path(file).write_text(json.dumps(dataset))
    with pytest.raises(DataError, match=f"{re.escape(file)}: .*{message}"):
        MrcnnExtCOCOEvaluator(name)


DISTRIBUTED = """
import json, pickle, sys
import torch.distributed as dist
import torch.multiprocessing as mp

def worker(rank, address, folder):
    import contextlib
    from detectron2.data.datasets import register_coco_instances
    from detectron2.utils import comm
    from mrcnn_ext.evaluation import MrcnnExtCOCOEvaluator

    dist.init_process_group("gloo", init_method=address, world_size=2, rank=rank)
    comm._LOCAL_PROCESS_GROUP = dist.new_group([0, 1])
    register_coco_instances("both", {}, folder + "/truth.json", "")
    with open(folder + "/outputs.pkl", "rb") as file:
        inputs, outputs = pickle.load(file)
    evaluator = MrcnnExtCOCOEvaluator("both", ("bbox", "segm", "boundary"))
    evaluator.reset()
    evaluator.process(inputs[rank::2], outputs[rank::2])
    results = evaluator.evaluate()
    assert bool(results) == (rank == 0)
    if rank == 0:
        with open(folder + "/results.json", "w") as file:
            json.dump(results, file)
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(worker, nprocs=2, args=(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.slow
def test_two_processes(registered, tmp_path):
    import pickle

    dataset, records = make_case(8, images=8)
    for index, category in enumerate(dataset["categories"]):
        category["id"] = index  # so that nothing has to be loaded to know the mapping
    for item in (*dataset["annotations"], *records):
        item["category_id"] = (item["category_id"] - 2) // 3
    for number, record in enumerate(records):
        record["score"] = 0.9 - number / 1000  # the order of images is another with two processes
    inputs, outputs = _outputs(dataset, records)
    write(tmp_path / "truth.json", dataset)
    (tmp_path / "outputs.pkl").write_bytes(pickle.dumps((inputs, outputs)))
    (tmp_path / "both.py").write_text(DISTRIBUTED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    result = run_python(["-W", "ignore", tmp_path / "both.py", address, tmp_path])
    assert result.returncode == 0, result.stderr[-3000:]
    two = json.loads((tmp_path / "results.json").read_text())
    evaluator = MrcnnExtCOCOEvaluator(registered(dataset), ("bbox", "segm", "boundary"))
    one = _run(evaluator, inputs, outputs)
    for task in one:
        assert_same(two[task], one[task])
