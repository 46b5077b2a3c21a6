# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""projects/RoIAlignStudy: what its shift response must be, its measures, a study in small."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tests.helpers import REPO, run_python

PROJECT = REPO / "projects" / "RoIAlignStudy"
sys.path.insert(0, str(PROJECT))

from roi_align_study import POOLER_TYPES, schedule, shift  # noqa: E402
from roi_align_study.report import (  # noqa: E402
    Run,
    collect,
    collect_swapped,
    object_metrics,
    paired,
    write_report,
)
from roi_align_study.training import boundary, mask_measures, run_folder  # noqa: E402

# Smaller in everything that costs time
TINY = (
    *("MRCNN_EXT.SHAPES.NUM_TRAIN", "4", "MRCNN_EXT.SHAPES.NUM_VAL", "2"),
    *("MRCNN_EXT.SHAPES.IMAGE_SIZE", "96", "MODEL.WEIGHTS", ""),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
)


def _shifts(stride: int) -> list[float]:
    return [stride * (k + 0.31) / 16 for k in range(32)]


@pytest.mark.parametrize("stride", shift.STRIDES)
@pytest.mark.parametrize("size", [12.0, 25.75, 64.0, 201.5])
def test_aligned_roi_align_looks_where_it_should(stride, size):
    errors = shift.cell_errors("ROIAlignV2", stride, size, _shifts(stride))
    assert errors.shape == (32, 2, shift.CELLS)
    assert np.abs(errors).max() < 1e-3


@pytest.mark.parametrize("stride", shift.STRIDES)
@pytest.mark.parametrize("size", [16.0, 64.0, 201.5])
def test_unaligned_roi_align_is_off_by_half_a_feature_pixel(stride, size):
    errors = shift.cell_errors("ROIAlign", stride, size, _shifts(stride))
    assert np.abs(errors[:, 0] - stride / 2).max() < 1e-3  # in x
    assert np.abs(errors[:, 1] - stride / 2).max() < 1e-3  # in y


def test_unaligned_roi_align_widens_boxes_below_one_feature_pixel():
    (errors,) = shift.cell_errors("ROIAlign", 16, 8.0, [0.0])
    # From the box's start over 16 pixels instead of 8, and half of 16 further
    cells = (np.arange(shift.CELLS) + 0.5) / shift.CELLS
    np.testing.assert_allclose(errors, [8 + cells * (16 - 8)] * 2, atol=1e-3)


@pytest.mark.parametrize("stride", shift.STRIDES)
@pytest.mark.parametrize("size", [16.0, 25.75, 64.0, 201.5])
def test_roi_pool_is_off_by_its_quantisation(stride, size):
    """In feature pixels: the half of the convention, up to a half of rounding each end, and up to a
    half where a cell is rounded outwards; the box gains a pixel of length, half at each end."""
    errors = shift.cell_errors("ROIPool", stride, size, _shifts(stride)) / stride
    assert errors.min() >= -1.0
    assert errors.max() <= 2.0
    # The middle of the box moves in steps of a half or a whole, around the convention's half
    middle = errors.mean(axis=-1)
    assert middle.min() > -0.1
    assert middle.max() < 1.1
    assert middle.max() - middle.min() > 0.4
    assert middle.mean() == pytest.approx(0.5, abs=0.05)


def test_a_row_of_the_table():
    row = shift.measure(8, "small, 12 to 32", "ROIAlign")
    assert (row.bias, row.mean, row.worst) == pytest.approx((4, 4, 4), abs=1e-3)
    assert row.wobble < 1e-3
    assert row.mean_of_box == pytest.approx(np.mean([4 / s for s in shift.SIZES[row.boxes]]), 1e-3)
    assert "| 8 | small, 12 to 32 | ROIAlign | 4.00 | 19.8% | 4.00 | 4.00 | 0.00 |" in (
        shift.shift_table([row])
    )


def test_boundaries_include_the_border_of_the_image():
    mask = np.ones((6, 7), dtype=np.uint8)
    ring = boundary(mask, 1)
    assert ring.sum() == 2 * 7 + 2 * 4
    assert ring[1:-1, 1:-1].sum() == 0


def test_mask_measures_of_a_shifted_square():
    truth, mask = np.zeros((2, 100, 100), dtype=np.uint8)
    truth[20:60, 20:60] = 1
    mask[20:60, 22:62] = 1
    measures = mask_measures(mask, truth)
    assert measures["area"] == 1600
    assert measures["iou"] == pytest.approx(38 / 42)
    assert (measures["dx"], measures["dy"]) == (2, 0)
    # Of the contours of 156 pixels each, 2 x 38 are common
    assert measures["contour_iou"] == pytest.approx(76 / (2 * 156 - 76))
    assert measures["contour_iou"] < measures["boundary_iou"] < measures["iou"]
    empty = mask_measures(np.zeros_like(truth), truth)
    assert empty["iou"] == 0
    assert np.isnan(empty["dx"])


def test_objects_count_by_size_and_empty_masks_have_no_place():
    columns = {key: [0.5, 1.0, 0.0] for key in ("iou", "boundary_iou", "contour_iou")}
    nan = float("nan")
    metrics = object_metrics(
        {"area": [100, 2000, 500], "dx": [3, 0, nan], "dy": [4, 0, nan], **columns}
    )
    assert [metrics[f"number/{k}"] for k in ("all", "tiny", "small", "medium", "large")] == [
        *(3, 1, 2, 1, 0)
    ]
    assert metrics["iou/small"] == pytest.approx(25)
    assert metrics["offset/small"] == pytest.approx(5)
    assert metrics["empty/all"] == pytest.approx(100 / 3)
    assert np.isnan(metrics["iou/large"])


def test_differences_are_taken_within_a_seed():
    values = {("ROIPool", 1): 10.0, ("ROIAlignV2", 1): 11.0, ("ROIPool", 2): 30.0}
    runs = [Run(kind, seed, (0, 0), {"x": value}) for (kind, seed), value in values.items()]
    assert paired(runs, "ROIPool", "x") == {1: -1.0}  # seed 2 has no partner yet


def _write_result(plan: schedule.Plan, pooler_type: str, seed: int, images_seen: int) -> None:
    folder = run_folder(plan.output, pooler_type, seed)
    folder.mkdir(parents=True)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    value = 10.0 * seed + POOLER_TYPES.index(pooler_type)
    measures = ("iou", "boundary_iou", "contour_iou", "dx", "dy")
    result = {
        "iterations": plan.iterations,
        "opts": list(plan.opts),
        "weights_before": 7,
        "images_seen": images_seen,
        "ap": {f"{kind}/{name}": value for kind in ("bbox", "segm") for name in names},
        "objects": {"area": [100, 2000], **{key: [value / 100] * 2 for key in measures}},
    }
    (folder / "result.json").write_text(json.dumps(result))


def test_report_of_what_is_there_so_far(tmp_path):
    plan = schedule.Plan(tmp_path, seeds=3, iterations=5)
    assert plan.runs()[:4] == [*((kind, 1) for kind in POOLER_TYPES), ("ROIPool", 2)]
    for pooler_type, seed in plan.runs()[:7]:
        _write_result(plan, pooler_type, seed, images_seen=seed)
    text = write_report(plan)
    assert "ROIPool 3, ROIAlign 2, ROIAlignV2 2 of 3 seeds" in text
    row = "| box AP | 20.0 ± 10.0 | 16.0 ± 7.1 | 17.0 ± 7.1 | -2.0 ± 0.0 | -1.0 ± 0.0 |"
    assert row in text
    assert "other poolers put in" not in text
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == text
    assert (tmp_path / "paired_differences.png").is_file()
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 7

    assert schedule.finished(plan, "ROIPool", 1)
    with pytest.raises(schedule.StudyError, match=r"of 5 iterations.*not of 6"):
        schedule.finished(schedule.Plan(tmp_path, 3, 6), "ROIPool", 1)
    _write_result(plan, "ROIAlign", 3, images_seen=0)
    with pytest.raises(schedule.StudyError, match=r"seed 3.*not pairs"):
        collect(plan)


@pytest.mark.slow
def test_a_study_in_small_goes_on_where_it_was_interrupted(tmp_path):
    command = [PROJECT / "study.py", "--output", tmp_path, "--seeds", 1, "--iterations", 2]
    command += ["--only", "train", *TINY]
    done = run_python(command)
    assert done.returncode == 0, done.stderr
    runs = collect(schedule.Plan(tmp_path, 1, 2))
    assert [run.pooler_type for run in runs] == list(POOLER_TYPES)
    assert len({run.metrics["number/all"] for run in runs}) == 1
    (run_folder(tmp_path, "ROIAlign", 1) / "result.json").unlink()
    again = run_python(command)
    assert again.returncode == 0, again.stderr
    assert "2 trainings are there, 1 to do" in again.stdout
    assert again.stdout.count("started") == 1
    # Bit for bit the same again
    repeated = collect(schedule.Plan(tmp_path, 1, 2))[1]
    assert repeated.same == runs[1].same
    assert repeated.metrics == pytest.approx(runs[1].metrics, rel=0, abs=0, nan_ok=True)
    command[command.index("train")] = "swap"
    assert run_python(command).returncode == 0
    swapped = collect_swapped(schedule.Plan(tmp_path, 1, 2), runs)
    assert [run.pooler_type for run in swapped] == [POOLER_TYPES[-1], *POOLER_TYPES[:-1]]


@pytest.mark.slow
def test_a_training_that_fails_is_quoted(tmp_path):
    options = ["--output", tmp_path, "--seeds", 1, "--iterations", 1, "--only", "train"]
    done = run_python([PROJECT / "study.py", *options, "MODEL.NO_SUCH_KEY", "1"])
    assert done.returncode == 1
    assert "ROIPool seed 1 failed" in done.stderr
    assert "NO_SUCH_KEY" in done.stderr
