# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""projects/TrainingOptions: its configs, its tables, a study in small."""

from __future__ import annotations

import importlib.util
import json
import math
import sys

import pytest
from scipy import stats

from mrcnn_ext.config.load import load_config
from tests.helpers import REPO, run_python

PROJECT = REPO / "projects" / "TrainingOptions"


def _load_study():
    spec = importlib.util.spec_from_file_location("training_options_study", PROJECT / "study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


study = _load_study()


def _plan(folder, **changes):
    settings = {"seeds": 2, "iterations": 100, "jobs": 1, "opts": (), **changes}
    return study.Plan(folder, **settings)


def _write_metrics(plan, training: str, seed: int, entries: dict[int, dict[str, float]]) -> None:
    folder = plan.folder(training, seed)
    folder.mkdir(parents=True)
    lines = [json.dumps({"iteration": i, **values}) for i, values in entries.items()]
    (folder / "metrics.json").write_text("\n".join([*lines, '{"iteration": 10']), encoding="utf-8")


@pytest.mark.parametrize("training", study.TRAININGS)
def test_trainings_differ_in_what_they_are_named_after(training):
    cfg = load_config(str(PROJECT / "configs" / f"{training}.yaml"))
    keys = cfg.MRCNN_EXT
    assert keys.RESUME.EXACT
    assert cfg.INPUT.MAX_SIZE_TRAIN <= 320
    assert (cfg.SOLVER.IMS_PER_BATCH == 4) == (training not in ("sgd", "adamw_cosine"))
    assert (keys.SOLVER.ACCUMULATE == 2) == training.startswith("accumulated")
    assert (keys.SOLVER.OPTIMIZER == "AdamW") == (training == "adamw_cosine")
    assert (training in ("sgd", "adamw_cosine")) == keys.EMA.ENABLED


def test_table_of_differences(tmp_path):
    plan = _plan(tmp_path)
    for seed, (last, average) in {1: (10.0, 13.0), 2: (20.0, 21.0)}.items():
        values = {"bbox/AP": 1.0, "segm/AP": last, "ema/segm/AP": average}
        _write_metrics(plan, "sgd", seed, {50: {"total_loss": 1.0}, 100: values})
    text = study.report(plan)
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    row = found["after 100 steps"]["differences"]["its moving average - SGD, batch of 2"]["segm/AP"]
    # Student's t with one degree of freedom; the deviation of 3 and 1 is sqrt(2).
    half = stats.t.ppf(0.975, 1) * math.sqrt(2) / math.sqrt(2)
    assert row["seeds"] == [3.0, 1.0]
    assert row["mean"] == 2.0
    assert row["half"] == pytest.approx(half)
    assert "+3.0, +1.0; +2.0 ± 12.7" in text
    assert "15.0 ± 7.1" in text  # what was trained; nothing is said of what was not
    assert found["after 50 steps"]["values"]["SGD, batch of 4"]["segm/AP"] == {}


def test_only_the_end_counts_as_done(tmp_path):
    plan = _plan(tmp_path)
    assert not study.is_done(plan, "sgd", 1)
    _write_metrics(plan, "sgd", 1, {49: {"bbox/AP": 1.0}})
    assert not study.is_done(plan, "sgd", 1)
    _write_metrics(plan, "sgd", 2, {49: {"bbox/AP": 1.0}, 100: {"bbox/AP": 2.0}})
    assert study.is_done(plan, "sgd", 2)


def test_a_folder_of_other_settings_is_refused(tmp_path):
    study.check_settings(_plan(tmp_path))
    study.check_settings(_plan(tmp_path, seeds=3))  # more seeds of the same
    with pytest.raises(study.StudyError, match="Choose another --output"):
        study.check_settings(_plan(tmp_path, iterations=50))


def _run(command: list[str]) -> None:
    done = run_python(command, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_study_in_small(tmp_path):
    command = [
        *(str(PROJECT / "study.py"), "--output", str(tmp_path), "--seeds", "1"),
        *("--iterations", "4", "--jobs", "1", "MODEL.WEIGHTS", "", "INPUT.MIN_SIZE_TEST", "64"),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),  # so that something is found
        *("INPUT.MIN_SIZE_TRAIN", "(64,)", "MRCNN_EXT.SHAPES.IMAGE_SIZE", "96"),
        *("MRCNN_EXT.SHAPES.NUM_TRAIN", "8", "MRCNN_EXT.SHAPES.NUM_VAL", "2"),
    ]
    _run(command)
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    values = found["after 4 steps"]["values"]
    assert all("1" in values[row]["segm/AP"] for row in study.ROWS)
    # Once more: nothing is trained again.
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/*/metrics.json")}
    assert len(before) == len(study.TRAININGS)
    _run(command)
    assert {p: p.stat().st_mtime_ns for p in before} == before
