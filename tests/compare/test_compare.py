# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""python -m mrcnn_ext.compare: pairs are pairs, nothing is repeated, numbers are right."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.structures import Boxes, Instances

from mrcnn_ext.compare import checks, cost, forms, kinds, report, run, schedule
from mrcnn_ext.compare.__main__ import main
from mrcnn_ext.compare.collect import collect
from mrcnn_ext.compare.data import Checksum, PairedLoader, image_of
from mrcnn_ext.compare.kinds import MASK
from mrcnn_ext.compare.mask.objects import (
    QUALITIES,
    box_as_mask,
    boxes_without_mask,
    match_detections,
    true_objects,
)
from mrcnn_ext.compare.mask.tables import BOX_ROW
from mrcnn_ext.compare.pictures import choose
from mrcnn_ext.compare.plan import Plan, parse_variant
from mrcnn_ext.compare.results import Comparison, RunResult
from mrcnn_ext.compare.statistics import bootstrap_draws, calibration, paired_bootstrap
from mrcnn_ext.compare.training import build_paired_model, train
from mrcnn_ext.errors import ConfigError, DataError
from mrcnn_ext.evaluation.boundary import mask_and_boundary_iou
from mrcnn_ext.files import only_process
from mrcnn_ext.job_runner import Job, JobError, read_progress, run_jobs
from tests.helpers import THREADS, run_python, timm_cfg

# Smaller in everything that costs time
TINY = (
    *("MRCNN_EXT.SHAPES.NUM_TRAIN", "5", "MRCNN_EXT.SHAPES.NUM_VAL", "2"),
    *("MRCNN_EXT.SHAPES.IMAGE_SIZE", "96", "SOLVER.IMS_PER_BATCH", "2"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.BASE_LR", "0.01"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),  # so that there are boxes
)
DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
HEADS = ("MrcnnExtFCNMaskHead", "inner=MrcnnExtWrappedMaskHead:MRCNN_EXT.MASK_HEAD.SCORE certainty")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """A config file that takes a step in a fraction of a second."""
    cfg = timm_cfg("resnet18", fpn=True)
    file = tmp_path_factory.mktemp("base") / "base.yaml"
    file.write_text(cfg.dump())
    return str(file)


@pytest.fixture(scope="module")
def plan(base, tmp_path_factory) -> Plan:
    """A finished comparison of two heads, trained in this process."""
    torch.set_num_threads(THREADS)  # as every test: sums differ with the number in the last digits
    output = tmp_path_factory.mktemp("compare") / "out"
    made = _plan(base, output)
    checks.check_plan(made)
    checks.open_folder(made)
    with pytest.MonkeyPatch.context() as patch:
        assert _train(made, patch) == ["detector", "MrcnnExtFCNMaskHead seed 1", "inner seed 1"]
    return made


def _plan(base: str, output, heads=HEADS, **changes) -> Plan:
    settings = {"seeds": 1, "iterations": 3, "detector_iterations": 2, "opts": TINY, **changes}
    return Plan(base, tuple(parse_variant(head) for head in heads), output, **settings)


def _train(plan: Plan, patch) -> list[str]:
    """Do all jobs in this process; return the names of those that were not done before."""
    done = []

    def run_here(jobs, at_a_time, *, console=None, on_done=None, **how):
        for job in jobs:
            if not job.is_done():
                run.main([str(job.folder)])
                assert job.is_done()
                done.append(job.name)

    patch.setattr(schedule, "run_jobs", run_here)
    schedule.train_all(plan)
    return done


def _result(plan: Plan, index: int, seed: int = 1) -> dict:
    return json.loads((plan.folder(plan.variants[index], seed) / "result.json").read_text())


# ------------------------------------------------------------------------------------------- runs


def test_results_are_complete(plan):
    for index, variant in enumerate(plan.variants):
        result = _result(plan, index)
        assert {"bbox/AP", "segm/AP", "boundary/AP", "segm/AP50"} <= set(result["ap"])
        assert result["training"]["iterations"] == 3
        assert result["training"]["seconds per iteration"] > 0
        assert result["training"]["peak memory"] > 1e7
        assert result["parameters"] > 0
        folder = plan.folder(variant, 1)
        objects = json.loads((folder / "objects.json").read_text())
        masks = json.loads((folder / "masks.json").read_text())
        assert len(objects["iou"]) == len(masks) > 0
        assert all(0 <= v <= 1 for k in ("iou", "boundary_iou") for v in objects[k])
        assert (folder / "model_final.pth").is_file()


def test_heads_see_the_same_images_and_proposals(plan):
    first, second = (_result(plan, index)["training"] for index in (0, 1))
    assert first["images seen"] == second["images seen"] != 0
    assert first["proposals seen"] == second["proposals seen"] != 0
    assert first["weights before"]["rest"] == second["weights before"]["rest"]


def test_a_frozen_detector_stays_and_finds_the_same_boxes(plan):
    for index in (0, 1):
        training = _result(plan, index)["training"]
        assert training["weights before"]["rest"] == training["weights after"]["rest"]
        assert training["weights before"]["mask head"] != training["weights after"]["mask head"]
    assert _result(plan, 0)["boxes found"] == _result(plan, 1)["boxes found"]
    assert _result(plan, 0)["ap"]["bbox/AP"] == _result(plan, 1)["ap"]["bbox/AP"]
    assert collect(plan).warnings == []


def test_only_what_is_missing_is_trained(plan, monkeypatch):
    assert _train(plan, monkeypatch) == []
    more = replace(
        plan, variants=(*plan.variants, parse_variant("wide:MODEL.ROI_MASK_HEAD.CONV_DIM 24"))
    )
    checks.check_plan(more)
    checks.open_folder(more)
    assert _train(more, monkeypatch) == ["wide seed 1"]
    seen = {_result(more, index)["training"]["proposals seen"] for index in range(3)}
    assert len(seen) == 1
    # Evaluation alone, of what is trained
    (plan.folder(plan.variants[0], 1) / "result.json").unlink()
    before = (plan.folder(plan.variants[0], 1) / "training.json").stat().st_mtime_ns
    assert _train(plan, monkeypatch) == ["MrcnnExtFCNMaskHead seed 1"]
    assert (plan.folder(plan.variants[0], 1) / "training.json").stat().st_mtime_ns == before


def test_an_interrupted_training_ends_as_one_that_was_not(plan, tmp_path, monkeypatch, capsys):
    cfg = plan.config(plan.variants[1], 1)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 4, (3,)
    arguments = {"seed": 1, "detector": schedule.detector_weights(plan), "frozen": True}
    train(cfg, folder=tmp_path / "whole", **arguments)
    steps, real, parts = [], SimpleTrainer.run_step, tmp_path / "parts"

    def stops_in_the_third(trainer):
        steps.append(trainer.iter)
        if len(steps) == 3:
            raise KeyboardInterrupt
        real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(SimpleTrainer, "run_step", stops_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            train(cfg, folder=parts, **arguments)
    assert sorted(f.name for f in parts.glob("*.pth")) == [f"model_{n:07d}.pth" for n in (0, 1)]
    with (parts / "model_0000001.pth").open("rb+") as last:
        last.truncate(1000)
    torch.rand(17)  # what else a process draws
    train(cfg, folder=parts, **arguments)
    whole, resumed = (
        json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "parts")
    )
    for key in ("weights before", "weights after", "images seen", "proposals seen"):
        assert whole[key] == resumed[key], key
    said = capsys.readouterr().out
    assert f"warning: {parts}/model_0000001.pth is damaged" in said
    assert f"warning: going on from the checkpoint before: {parts}/model_0000000.pth" in said
    left = sorted(file.name for file in parts.glob("*.pth"))
    assert left == ["model_0000003.pth", "model_final.pth"]
    lines = (parts / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["detector", "run"])
def test_damaged_weights_of_a_finished_training_are_trained_again(
    base, tmp_path, monkeypatch, what
):
    plan = _plan(base, tmp_path / "out", heads=HEADS[:1])
    assert _train(plan, monkeypatch) == ["detector", "MrcnnExtFCNMaskHead seed 1"]
    run_folder = plan.folder(plan.variants[0], 1)
    folder = plan.detector_folder if what == "detector" else run_folder
    before = json.loads((folder / "training.json").read_text())
    result = _result(plan, 0)
    assert [f.name for f in run_folder.glob("*.pth")] == ["model_final.pth"]
    with (folder / "model_final.pth").open("rb+") as file:
        file.truncate(5000)
    assert _train(plan, monkeypatch) == []  # nothing needs them
    (run_folder / "result.json").unlink()
    done = ["MrcnnExtFCNMaskHead seed 1"]
    assert _train(plan, monkeypatch) == (["detector", *done] if what == "detector" else done)
    after = json.loads((folder / "training.json").read_text())
    assert after["weights after"] == before["weights after"]
    assert _result(plan, 0)["ap"] == result["ap"]
    assert [f.name for f in run_folder.glob("*.pth")] == ["model_final.pth"]


def test_a_second_comparison_leaves_the_folder_of_a_running_one_alone(plan, base, capsys):
    def state():
        files = [file for file in plan.output.rglob("*") if file.is_file()]
        return {file: file.stat().st_mtime_ns for file in files}

    command = ["--base", base, "--heads", *HEADS, "--seeds", "1", "--iterations", "3"]
    command += ["--detector-iterations", "2", "--output", str(plan.output), *TINY]
    with only_process(plan.output):
        before = state()
        assert main(command) == 1
        assert state() == before
    assert f"another process is at work in {plan.output}" in capsys.readouterr().err
    folder = plan.folder(plan.variants[0], 1)
    (folder / "result.json").rename(folder / "kept.json")
    with only_process(folder):  # one that was started by hand
        before = state()
        with pytest.raises(DataError, match=f"another process is at work in {folder}"):
            schedule.train_all(plan)
        assert state() == before
    (folder / "kept.json").rename(folder / "result.json")


def test_a_folder_that_is_no_run_is_one_error(tmp_path, capsys):
    assert run.main([str(tmp_path)]) == 1
    assert f"{tmp_path} is no run of a comparison" in capsys.readouterr().err


def test_end_to_end_models_start_alike(base, tmp_path):
    plan = _plan(base, tmp_path / "out", mode="end_to_end")
    states = [
        build_paired_model(plan.config(variant, 1), seed=5).state_dict()
        for variant in plan.variants
    ]
    shared = [k for k in states[0] if not MASK.owns(k)]
    assert len(shared) > 20
    assert all(torch.equal(states[0][k], states[1][k]) for k in shared)
    other = build_paired_model(plan.config(plan.variants[0], 1), seed=6).state_dict()
    assert not torch.equal(
        states[0]["roi_heads.box_head.fc1.weight"], other["roi_heads.box_head.fc1.weight"]
    )


def test_images_come_once_an_epoch_and_go_on_anywhere(plan):
    order = [image_of(number, 7, seed=3) for number in range(21)]
    assert all(sorted(order[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert order[:7] != order[7:14]
    cfg = plan.config(plan.variants[0], 1)

    def batches(start: int, seed: int = 1) -> list:
        loader = PairedLoader(cfg, seed=seed, start=start, stop=4, seen=Checksum())
        return [[(x["image_id"], x["image"].float().mean().item()) for x in b] for b in loader]

    whole = batches(0)
    assert len(whole) == 4
    assert batches(2) == whole[2:]
    assert batches(0, seed=2) != whole
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MRCNN_EXT.DATA.SAMPLER = "class_balanced"
    with pytest.raises(
        ConfigError, match=r"DATA\.SAMPLER is 'class_balanced'; expected '': a comp"
    ):
        batches(0)


# -------------------------------------------------------------------------------- held-out classes


def test_held_out_classes_train_no_head(base, tmp_path):
    plan = _plan(base, tmp_path / "out", held_out=("fork", "0"))
    ids = plan.held_out_ids(plan.base_config())
    assert len(ids) == 2
    for cfg in (plan.detector_config(), plan.config(plan.variants[1], 1)):
        assert cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK
        assert sorted([*ids, *cfg.MRCNN_EXT.MASK_HEAD.TRAIN_CLASSES]) == list(range(8))
    with pytest.raises(ConfigError, match=r"no class 'nail'; expected names of .*fork"):
        checks.check_plan(replace(plan, held_out=("nail",)))
    with pytest.raises(ConfigError, match="all classes"):
        checks.check_plan(replace(plan, held_out=tuple("01234567")))
    other = _plan(base, tmp_path / "out", ["MaskRCNNConvUpsampleHead"], held_out=("fork",))
    with pytest.raises(ConfigError, match="cannot leave classes out"):
        checks.check_plan(other)


# ------------------------------------------------------------------------------------------ numbers


def _brute_force(differences, images, by_seed, by_image):
    names = sorted(set(images))
    values = []
    for seeds, drawn in zip(by_seed, by_image):
        sample = [
            differences[s][k]
            for s in range(len(differences))
            for _ in range(seeds[s])
            for i, name in enumerate(names)
            for _ in range(drawn[i])
            for k in range(len(images))
            if images[k] == name
        ]
        values.append(np.mean(sample))
    return np.quantile(values, [0.025, 0.975])


@pytest.mark.parametrize("seeds", [1, 3])
def test_bootstrap_is_that_of_plain_loops(seeds):
    rng = np.random.default_rng(4)
    images = np.array([3, 3, 3, 0, 7, 7, 2])
    differences = rng.normal(size=(seeds, len(images)))
    draws = bootstrap_draws(seeds, 4, repeats=60, generator=1)
    assert (draws[0].sum(1) == seeds).all()
    assert (draws[1].sum(1) == 4).all()
    interval = paired_bootstrap(differences, images, draws)
    assert interval.value == pytest.approx(differences.mean())
    low, high = _brute_force(differences.tolist(), images.tolist(), *draws)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(40), 3)
    inside = 0
    for _ in range(200):
        of_image = rng.normal(size=40)[images]  # objects of an image go together
        differences = (0.3 + of_image + rng.normal(size=120))[None]
        found = paired_bootstrap(differences, images, bootstrap_draws(1, 40, repeats=300))
        inside += found.low <= 0.3 <= found.high
    assert 0.88 <= inside / 200 <= 0.99
    assert np.isnan(paired_bootstrap(np.zeros((2, 0)), np.zeros(0)).low)


def test_calibration_of_known_scores():
    rows = [
        {"iou": 0.2, "class score": 0.5, "certainty": 0.9},
        {"iou": 0.6, "class score": 0.7, "certainty": 0.5},
        {"iou": 1.0, "class score": 0.9, "certainty": 0.1},
    ]
    found = calibration(rows, QUALITIES, "iou")
    assert set(found) == {"class score", "certainty"}
    assert found["class score"]["error"] == pytest.approx((0.3 + 0.1 + 0.1) / 3)
    assert found["class score"]["rank correlation"] == pytest.approx(1)
    assert found["certainty"]["rank correlation"] == pytest.approx(-1)


def test_a_filled_box_is_right_for_a_rectangle():
    record = {"image_id": 1, "height": 40, "width": 50}
    polygon = [[5, 6, 25, 6, 25, 30, 5, 30]]
    item = {"bbox": [5, 6, 20, 24], "bbox_mode": 1, "category_id": 2, "segmentation": polygon}
    crowd = {**item, "iscrowd": 1}
    (one,) = true_objects({**record, "annotations": [crowd, item]})
    assert (one.index, one.category, one.area) == (1, 2, 20 * 24)
    assert mask_and_boundary_iou(box_as_mask(one), one.rle) == (1.0, 1.0)


def _made_up(name: str, seed: int, ap: float, ious: list[float]) -> RunResult:
    objects = {
        "area": np.array([100, 2000, 100, 2000]),
        "category": np.array([0, 1, 1, 0]),
        "image": np.array([0, 0, 1, 1]),
        "iou": np.array(ious),
        "boundary_iou": np.array(ious) / 2,
    }
    aps = {"segm/AP": ap, "segm/AP-a": ap + 1, "segm/AP-b": ap - 1, "bbox/AP": 30.0}
    training = {"seconds per iteration": 0.5, "peak memory": 2**30, "threads": 1}
    training["peak memory is of"] = "the process"
    score = {"class score": {"error": 0.25, "rank correlation": None, "number": 4}}
    return RunResult(
        name, seed, None, {"ap": aps, "training": training, "calibration": score}, objects
    )


def test_detections_of_objects_without_a_mask_are_left_out():
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    item = {"bbox": [12.0, 10, 32, 30], "bbox_mode": 0, "category_id": 0}
    record = {"image_id": 7, "height": 40, "width": 60, "annotations": [
        {**item, "bbox": [10.0, 10, 30, 30], "segmentation": square}, item]}  # fmt: skip
    output = Instances((40, 60), pred_boxes=Boxes(torch.tensor([[12.0, 10, 32, 30]])))
    output.scores, output.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    output.pred_masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    output.pred_masks[0, 10:30, 12:32] = True
    objects, others = true_objects(record), boxes_without_mask([record])
    assert (len(objects), len(others[7])) == (1, 1)
    assert match_detections(output, objects)[0]["iou"] == pytest.approx(18 / 22)
    assert match_detections(output, objects, others[7]) == []


def test_tables_of_made_up_results():
    runs = {
        "first": {
            1: _made_up("first", 1, 10.0, [0.5, 0.5, 0.5, 0.5]),
            2: _made_up("first", 2, 12.0, [0.7, 0.7, 0.7, 0.7]),
        },
        "other": {
            1: _made_up("other", 1, 13.0, [0.6, 0.6, 0.5, 0.5]),
            2: _made_up("other", 2, 16.0, [0.8, 0.8, 0.7, 0.7]),
        },
        "late": {},
    }
    costs = {
        "first": {
            "parameters": 1e6,
            "milliseconds": 10.0,
            "gflops": 2.0,
            "threads": 1,
            "device": "cpu",
        },
        "other": {
            "parameters": 2e6,
            "milliseconds": 15.0,
            "gflops": None,
            "threads": 1,
            "device": "cpu",
        },
    }
    comparison = Comparison(list(runs), runs, 3, costs, [1], ["a", "b"])
    box = {k: runs["first"][1].objects[k] for k in ("area", "category", "iou", "boundary_iou")}
    made = {table.title: table for table in MASK.tables(comparison, box)}
    main_table = made["Mask heads"].table
    first, other, late, filled = main_table.rows
    assert [c.text for c in first] == [
        *("first", "11.0 ± 1.4", DASH, "60.0 ± 14.1", "30.0 ± 7.1", "1.00", "2.00", "10.0", "2/3")
    ]
    assert other[1].delta == "+3.5 ± 0.7"
    assert other[3].text == "65.0 ± 14.1"
    # One image gains 10 points, the other nothing, in each seed
    assert other[3].delta == "+5.0 [+0.0, +10.0]"
    assert other[3].trend == "same"
    assert (other[5].delta, other[6].text, other[7].delta) == (
        f"{TIMES} 2.00",
        DASH,
        f"{TIMES} 1.50",
    )
    assert (late[1].text, late[-1].text) == (DASH, "0/3")
    assert (filled[0].text, filled[3].text) == (BOX_ROW, "50.0")
    split = made["Seen and unseen classes: average precision"].table.rows
    assert [c.text for c in split[0][1:3]] == ["12.0 ± 1.4", "10.0 ± 1.4"]  # a, b
    split = made["Seen and unseen classes: at the true boxes"].table.rows
    assert split[1][2].delta.startswith("+5.0 [")
    assert [row[0].text for row in split] == ["first", "other", BOX_ROW]
    by_size = made["By size"].table.rows
    assert by_size[0][3].text == DASH  # no large object
    text = forms.as_markdown(made["Mask heads"])
    assert "| other | 14.5 ± 2.1 (+3.5 ± 0.7) |" in text
    json.dumps(forms.as_json(made["Mask heads"]))
    assert forms.as_rich(made["Mask scores"]).row_count == 2


def test_pictures_are_of_hard_and_easy_objects():
    values = np.linspace(0, 1, 101)
    objects = {
        "area": np.where(np.arange(101) % 2, 900, 100),
        "boundary_iou": values,
        "image": np.arange(101) // 2,
        "category": np.arange(101) % 5,
    }
    chosen = choose(objects, per_level=2)
    assert [c.level for c in chosen] == ["hard"] * 2 + ["medium"] * 2 + ["easy"] * 2
    for one, expected in zip(chosen, (0.1, 0.1, 0.5, 0.5, 0.9, 0.9)):
        assert objects["boundary_iou"][one.row] == pytest.approx(expected, abs=0.05)
        assert objects["area"][one.row] == 900
    assert len({int(objects["image"][c.row]) for c in chosen}) == 6
    assert choose(objects, per_level=2) == chosen


def test_report_is_whole(plan, monkeypatch):
    monkeypatch.setattr(cost, "_ROUNDS", 1)
    made = report.write_report(plan)
    assert made[0].title == "Mask heads"
    page = (plan.output / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") >= 4
    assert 'src="http' not in page
    for name in ("masks", "sizes", "differences", "accuracy_and_cost"):
        assert (plan.output / "pictures" / f"{name}.png").is_file()
    costs = json.loads((plan.output / "costs.json").read_text())["heads"]
    assert costs["inner"]["parameters"] == _result(plan, 1)["parameters"]
    assert costs["inner"]["gflops"] > 0
    assert costs["inner"]["milliseconds"] > 0
    stored = json.loads((plan.output / "results.json").read_text())
    assert stored["finished"] == {"MrcnnExtFCNMaskHead": [1], "inner": [1]}
    assert "| inner |" in (plan.output / "results.md").read_text(encoding="utf-8")


def test_runs_that_are_no_pairs_are_refused(plan, monkeypatch):
    file = plan.folder(plan.variants[1], 1) / "result.json"
    before = file.read_text()
    try:
        changed = json.loads(before)
        changed["training"]["images seen"] += 1
        file.write_text(json.dumps(changed))
        with pytest.raises(DataError, match="saw different training images"):
            collect(plan)
        file.write_text("{")
        with pytest.raises(DataError, match="damaged"):
            collect(plan)
    finally:
        file.write_text(before)


# --------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("MrcnnExtFCNMaskHaed", "Did you mean MrcnnExtFCNMaskHead"),
        ("x=NoSuchHead", "nobody registered a mask head 'NoSuchHead'"),
        ("x:MODEL.ROI_MASK_HEAD.NORM", "expected HEAD"),
        ("x=config.py", "yaml configs only"),
    ],
)
def test_what_is_no_head(head, message):
    with pytest.raises(ConfigError, match=message):
        parse_variant(head)


def test_forms_of_heads():
    assert parse_variant("MrcnnExtFCNMaskHead").name == "MrcnnExtFCNMaskHead"
    assert parse_variant("a=MrcnnExtFCNMaskHead:X.Y 1").opts == ("X.Y", "1")
    assert parse_variant("configs/some.yaml").name == "some"
    made = parse_variant("MrcnnExtFCNMaskHead:MODEL.ROI_MASK_HEAD.NORM GN")
    assert (made.name, made.slug) == ("MrcnnExtFCNMaskHead NORM GN", "MrcnnExtFCNMaskHead_NORM_GN")
    losses = parse_variant("d:MRCNN_EXT.MASK_HEAD.LOSSES \"['dice', 'bce']\"")
    assert losses.opts == ("MRCNN_EXT.MASK_HEAD.LOSSES", "['dice', 'bce']")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": ["a:MODEL.FPN.OUT_CHANNELS 24"]}, r"changes MODEL.FPN.OUT_CHANNELS: 16 → 24"),
        ({"heads": ["a:SOLVER.MAX_ITER 9"]}, r"SOLVER.MAX_ITER: 3 → 9.*same data"),
        ({"heads": ["a:MODEL.NO_SUCH 9"]}, r"--heads 'a'.*NO_SUCH"),
        ({"heads": ["a=MrcnnExtFCNMaskHead:MRCNN_EXT.MASK_HEAD.SCORE no"]}, "cannot be built"),
        ({"heads": ["a:MRCNN_EXT.MASK_HEAD.SCORE no"]}, "a=MrcnnExtFCNMaskHead:"),
        ({"heads": ["MrcnnExtFCNMaskHead"] * 2}, "have the same name"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"iterations": 0}, "--iterations is 0"),
        ({"detector": "no.pth"}, "there is no file 'no.pth'"),
        ({"mode": "end_to_end", "detector": "no.pth"}, "goes with --mode frozen"),
        ({"opts": (*TINY, "DATASETS.TEST", "()")}, "exactly one data set"),
    ],
)
def test_what_cannot_be_compared(base, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        checks.check_plan(_plan(base, tmp_path, **changes))


def test_a_folder_belongs_to_one_comparison(plan, base, tmp_path):
    checks.open_folder(plan)
    with pytest.raises(ConfigError, match=r"SOLVER.MAX_ITER: 3 → 4"):
        checks.open_folder(replace(plan, iterations=4))
    renamed = _plan(base, plan.output, ["MrcnnExtFCNMaskHead:MODEL.ROI_MASK_HEAD.CONV_DIM 8"])
    renamed = replace(renamed, variants=(replace(renamed.variants[0], name="MrcnnExtFCNMaskHead"),))
    with pytest.raises(ConfigError, match=r"CONV_DIM: 16 → 8.*another name for the head"):
        checks.open_folder(renamed)
    # A key that is newer than the folder had the effect of its default.
    stored = json.loads((plan.output / "comparison.json").read_text())
    del stored["config"]["MRCNN_EXT.EVALUATION.PCK_REFERENCE"]
    (plan.output / "comparison.json").write_text(json.dumps(stored))
    checks.open_folder(plan)
    opts = (*TINY, "MRCNN_EXT.EVALUATION.PCK_REFERENCE", "(0, 1)")
    with pytest.raises(ConfigError, match=r"PCK_REFERENCE: \[\] → \[0, 1\]"):
        checks.open_folder(_plan(base, plan.output, opts=opts))
    (tmp_path / "something").write_text("")
    with pytest.raises(ConfigError, match="no comparison made it"):
        checks.open_folder(_plan(base, tmp_path))


def test_the_command_says_what_is_wrong(base, capsys):
    assert main(["--base", base, "--heads", "NoHead"]) == 1
    assert "There are: " in capsys.readouterr().err
    assert main(["--base", "no.yaml", "--heads", "MrcnnExtFCNMaskHead"]) == 1
    assert "no.yaml" in capsys.readouterr().err
    assert main(["--base", base, "--heads", "MrcnnExtFCNMaskHead", "--sedes", "3"]) == 1
    assert "--sedes" in capsys.readouterr().err
    assert main(["--base", base, "--heads", "H", "--import", "no_such_module"]) == 1
    assert "--import no_such_module" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_do_not_share_a_folder(plan, capsys):
    folder = plan.folder(plan.variants[0], 1)
    with only_process(folder):
        command = [sys.executable, "-m", "mrcnn_ext.compare.run", str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert f"another process is at work in {folder}" in ended.stderr


def test_kinds_of_heads_do_not_know_each_other():
    folder = Path(kinds.__file__).parent
    for own, other in (("mask", "keypoint"), ("keypoint", "mask")):
        for file in (folder / own).glob("*.py"):
            imports = [line for line in file.read_text().splitlines() if "import" in line]
            assert not [line for line in imports if f"..{other}" in line], file
    for file in folder.rglob("*.py"):
        assert "..report" not in file.read_text(), file
    assert set(kinds.HEAD_KINDS) == {"mask", "keypoint"}


# ----------------------------------------------------------------------------------------- processes


def _job(folder, name: str, code: str) -> Job:
    done = folder / name / "done"
    return Job(name, folder / name, (sys.executable, "-c", code, str(done)), 4, done.is_file)


def test_jobs_run_once_and_failures_are_quoted(tmp_path, capsys):
    works = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('')"
    jobs = [_job(tmp_path, "bad", "raise ValueError('so it is')"), _job(tmp_path, "good", works)]
    ended = []
    with pytest.raises(JobError, match=r"bad failed(.|\n)*so it is"):
        run_jobs(jobs, 2, on_done=ended.append)
    assert ended == [jobs[1]]
    capsys.readouterr()
    run_jobs(jobs[1:], 1)
    assert "1 trainings are there, 0 to do" in capsys.readouterr().out


def test_progress_is_the_last_whole_line(tmp_path):
    assert read_progress(tmp_path) == {}
    (tmp_path / "metrics.json").write_text('{"iteration": 4, "total_loss": 1.5}\n{"itera')
    assert read_progress(tmp_path) == {"iteration": 4, "total_loss": 1.5}
    with open(tmp_path / "metrics.json", "a") as file:
        file.write("\n7\n")
    assert read_progress(tmp_path) == {"iteration": 4, "total_loss": 1.5}


@pytest.mark.slow
def test_the_command_from_start_to_end(base, tmp_path):
    command = ["-m", "mrcnn_ext.compare", "--base", base, "--heads", "MrcnnExtFCNMaskHead"]
    command += [
        "--mode",
        "end_to_end",
        "--seeds",
        1,
        "--iterations",
        2,
        "--output",
        tmp_path / "out",
    ]
    done = run_python([*command, *TINY], env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "1/1" in done.stdout
    again = run_python([*command, *TINY], env={"OMP_NUM_THREADS": "1"})
    assert "1 trainings are there, 0 to do" in again.stdout
    assert (tmp_path / "out" / "report.html").is_file()
