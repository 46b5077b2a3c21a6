# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""python -m mrcnn_ext.compare --part keypoint: pairs are pairs, and numbers are right."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from mrcnn_ext.compare import checks, cost, report, run, schedule
from mrcnn_ext.compare.collect import collect
from mrcnn_ext.compare.keypoint.objects import match_poses, measures, posed_objects
from mrcnn_ext.compare.kinds import KEYPOINT
from mrcnn_ext.compare.plan import Plan, parse_variant
from mrcnn_ext.errors import ConfigError
from tests.compare.test_compare import TINY
from tests.helpers import THREADS, timm_cfg

HEADS = (
    "stock=KRCNNConvDeconvUpsampleHead",
    "gaussian=MrcnnExtHeatmapKeypointHead:MRCNN_EXT.KEYPOINT_HEAD.CODEC gaussian",
    "rle=MrcnnExtRegressionKeypointHead:MRCNN_EXT.KEYPOINT_HEAD.RLE.FC_DIM 8",
)
OPTS = (
    *TINY,
    *("MODEL.KEYPOINT_ON", "True", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "11"),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)"),
    *("MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", "0", "MRCNN_EXT.SHAPES.SEED", "3"),
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """A finished comparison of three heads, trained in this process."""
    torch.set_num_threads(THREADS)
    folder = tmp_path_factory.mktemp("compare_keypoints")
    (folder / "base.yaml").write_text(timm_cfg("resnet18", fpn=True).dump())
    made = Plan(
        base=str(folder / "base.yaml"),
        variants=tuple(parse_variant(text, KEYPOINT) for text in HEADS),
        output=folder / "out",
        iterations=3,
        detector_iterations=1,
        opts=OPTS,
        kind=KEYPOINT,
    )
    checks.check_plan(made)
    checks.open_folder(made)

    def in_this_process(jobs, at_a_time, **kwargs):
        for job in jobs:
            if not job.is_done():
                assert run.main([str(job.folder)]) == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "run_jobs", in_this_process)
        schedule.train_all(made)
    return made


def test_only_the_keypoint_head_differs(plan):
    results = [json.loads((plan.folder(v, 1) / "result.json").read_text()) for v in plan.variants]
    training = [result["training"] for result in results]
    assert len({t["images seen"] for t in training}) == 1
    assert len({t["proposals seen"] for t in training}) == 1
    assert len({t["weights before"]["rest"] for t in training}) == 1
    for one in training:
        assert one["weights before"]["rest"] == one["weights after"]["rest"]
        assert one["weights before"]["keypoint head"] != one["weights after"]["keypoint head"]
    assert len({result["boxes found"] for result in results}) == 1
    assert {"keypoints/AP", "bbox/AP"} <= results[0]["ap"].keys()
    assert results[0]["sigmas"] == [0.05] * 11


def test_numbers_at_the_true_boxes_are_those_of_what_was_drawn(plan):
    records = {r["image_id"]: r for r in DatasetCatalog.get("mrcnn_ext_shapes_val")}
    folder = plan.folder(plan.variants[1], 1)
    columns = json.loads((folder / "objects.json").read_text())
    found = json.loads((folder / "keypoints.json").read_text())
    assert len(found) == len(columns["oks"]) > 0
    for row, keypoints in enumerate(found):
        item = records[columns["image_id"][row]]["annotations"][columns["index"][row]]
        truth = np.reshape(item["keypoints"], (-1, 3))
        x0, y0, x1, y1 = BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)
        side, oks, distances = ((x1 - x0) * (y1 - y0)) ** 0.5, [], []
        for (x, y, v), (px, py, _) in zip(truth, keypoints):
            if v > 0:
                distances.append(((x - px) ** 2 + (y - py) ** 2) ** 0.5)
                oks.append(np.exp(-(distances[-1] ** 2) / (2 * columns["area"][row] * 0.1**2)))
        assert columns["oks"][row] == pytest.approx(np.mean(oks), abs=2e-3)
        assert columns["pixels"][row] == pytest.approx(np.mean(distances), abs=2e-3)
        assert columns["error"][row] == pytest.approx(np.mean(distances) / side, abs=1e-3)
        assert columns["pck10"][row] == pytest.approx(
            np.mean(np.array(distances) <= 0.1 * side), abs=1e-6
        )


def test_report(plan, monkeypatch):
    monkeypatch.setattr(cost, "_ROUNDS", 1)
    tables = report.write_report(plan)
    assert [t.title for t in tables] == [
        *("Keypoint heads", "Average precision", "By size", "Cost", "Keypoint scores"),
    ]
    costs = json.loads((plan.output / "costs.json").read_text())["heads"]
    assert all(cost["milliseconds"] > 0 for cost in costs.values())
    text = (plan.output / "report.html").read_text(encoding="utf-8")
    assert "Comparison of keypoint heads" in text
    assert (plan.output / "pictures" / "keypoints.png").is_file()
    assert "Comparison of keypoint heads" in (plan.output / "results.md").read_text()
    # Where less is better, a smaller error is green
    comparison = collect(plan)
    for run_of_seed in comparison.runs["gaussian"].values():
        base = comparison.runs["stock"][run_of_seed.seed]
        run_of_seed.objects["error"] = base.objects["error"] * 0.5
    from mrcnn_ext.compare.cells import measure_cell

    assert measure_cell(comparison, "gaussian", "error", less=True).trend == "better"
    pixels = [r.objects["pixels"].mean() for r in comparison.runs["gaussian"].values()]
    assert measure_cell(comparison, "gaussian", "pixels").value == pytest.approx(np.mean(pixels))
    assert measure_cell(comparison, "gaussian", "error").trend == "worse"


def _changed(plan: Plan, head: str, **changes) -> Plan:
    return replace(plan, variants=(parse_variant(head, KEYPOINT),), **changes)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            "x=KRCNNConvDeconvUpsampleHead:MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 12",
            "in the keypoint",
        ),
        ("x:MODEL.ROI_MASK_HEAD.CONV_DIM 8", "in the keypoint head alone"),
        ("x=KRCNNConvDeconvUpsampleHead:MRCNN_EXT.KEYPOINT_HEAD.CODEC udp", "does not read"),
    ],
)
def test_what_is_no_pair(plan, head, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        checks.check_plan(_changed(plan, head, output=tmp_path / "other"))


def test_other_mistakes(plan):
    with pytest.raises(
        ConfigError, match=r"nobody registered a keypoint head 'MrcnnExtFCNMaskHead'"
    ):
        parse_variant("MrcnnExtFCNMaskHead", KEYPOINT)
    with pytest.raises(ConfigError, match="--held-out leaves masks out"):
        checks.check_plan(replace(plan, held_out=("figure",)))
    opts = (*plan.opts, "MODEL.KEYPOINT_ON", "False")
    with pytest.raises(ConfigError, match="there is no keypoint head to compare"):
        checks.check_plan(replace(plan, opts=opts))


def test_measures_of_known_points():
    record = {
        "image_id": 1,
        "height": 100,
        "width": 100,
        "annotations": [
            {
                "bbox": [10, 10, 40, 10],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "keypoints": [20, 15, 2, 30, 15, 1, 0, 0, 0],
            },
            {
                "bbox": [0, 0, 9, 9],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 1,
                "keypoints": [0] * 9,
            },
        ],
    }
    (one,) = posed_objects(record)
    assert one.area == 400
    found = np.array([[20, 15], [33, 19], [99, 99]], float)
    values = measures(one, found, np.array([0.05, 0.1, 0.5]))
    assert values["pixels"] == pytest.approx(2.5)
    assert values["error"] == pytest.approx(2.5 / 20)
    assert values["oks"] == pytest.approx((1 + np.exp(-25 / (2 * 400 * 0.04))) / 2)
    assert (values["pck05"], values["pck10"]) == (0.5, 0.5)
    output = Instances((100, 100))
    output.pred_boxes = Boxes(torch.tensor([[10.0, 10, 50, 20], [60, 60, 90, 90]]))
    output.scores = torch.tensor([0.9, 0.8])
    output.pred_classes = torch.tensor([0, 0])
    scores = torch.tensor([0.2, 0.4, 0.9])
    keypoints = torch.cat([torch.tensor(found).float(), scores[:, None]], dim=1)
    output.pred_keypoints = keypoints.expand(2, 3, 3)
    own = np.array([[True, True, False]])
    (row,) = match_poses(output, [one], np.array([0.05, 0.1, 0.5]), own)
    assert row["oks"] == pytest.approx(values["oks"])
    assert row["box score"] == pytest.approx(0.9)
    assert row["keypoint score"] == pytest.approx(0.3)
