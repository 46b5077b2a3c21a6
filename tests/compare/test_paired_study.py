# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Paired trainings: what is run, what counts as done, the tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from scipy import stats

from mrcnn_ext.compare.paired_study import Plan, Study, StudyError, check_settings, is_done, report

STUDY = Study(
    configs=Path("configs"),
    trainings=("sgd", "late", "adamw"),
    last=("late",),
    measures={"segm/AP": "mask AP", "bbox/AP": "box AP"},
    rows={"SGD": ("sgd", ""), "its average": ("sgd", "ema/"), "AdamW": ("adamw", "")},
    pairs=(("its average", "SGD"), ("AdamW", "SGD")),
    prepare=lambda folder: ("MODEL.WEIGHTS", str(folder)),
)


def _plan(folder, **changes):
    settings = {"seeds": 2, "iterations": 100, "jobs": 1, "opts": ("A", "1"), **changes}
    return Plan(STUDY, folder, **settings)


def _write_metrics(plan, training: str, seed: int, entries: dict[int, dict[str, float]]) -> None:
    folder = plan.folder(training, seed)
    folder.mkdir(parents=True)
    lines = [json.dumps({"iteration": i, **values}) for i, values in entries.items()]
    (folder / "metrics.json").write_text("\n".join([*lines, '{"iteration": 10']), encoding="utf-8")


def test_table_of_differences(tmp_path):
    plan = _plan(tmp_path)
    for seed, (last, average) in {1: (10.0, 13.0), 2: (20.0, 21.0)}.items():
        values = {"bbox/AP": 1.0, "segm/AP": last, "ema/segm/AP": average}
        _write_metrics(plan, "sgd", seed, {50: {"total_loss": 1.0}, 100: values})
    text = report(plan)
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    row = found["after 100 steps"]["differences"]["its average - SGD"]["segm/AP"]
    # Student's t with one degree of freedom; the deviation of 3 and 1 is sqrt(2).
    half = stats.t.ppf(0.975, 1) * math.sqrt(2) / math.sqrt(2)
    assert row["seeds"] == [3.0, 1.0]
    assert row["mean"] == 2.0
    assert row["half"] == pytest.approx(half)
    assert "+3.0, +1.0; +2.0 ± 12.7" in text
    assert "15.0 ± 7.1" in text  # what was trained; nothing is said of what was not
    assert found["after 50 steps"]["values"]["AdamW"]["segm/AP"] == {}


def test_only_the_end_counts_as_done(tmp_path):
    plan = _plan(tmp_path)
    assert not is_done(plan, "sgd", 1)
    _write_metrics(plan, "sgd", 1, {49: {"bbox/AP": 1.0}})
    assert not is_done(plan, "sgd", 1)
    _write_metrics(plan, "sgd", 2, {49: {"bbox/AP": 1.0}, 100: {"bbox/AP": 2.0}})
    assert is_done(plan, "sgd", 2)


def test_a_folder_of_other_settings_is_refused(tmp_path):
    check_settings(_plan(tmp_path))
    check_settings(_plan(tmp_path, seeds=3))  # more seeds of the same
    with pytest.raises(StudyError, match="Choose another --output"):
        check_settings(_plan(tmp_path, iterations=50))


def test_seed_by_seed_and_overrides_in_their_order(tmp_path):
    plan = _plan(tmp_path)
    first = [("sgd", 1), ("adamw", 1), ("sgd", 2), ("adamw", 2)]
    assert plan.runs() == [*first, ("late", 1), ("late", 2)]
    command = plan.command("sgd", 2, STUDY.prepare(tmp_path))
    assert command.index("MODEL.WEIGHTS") < command.index("A") < command.index("SEED")
    assert command[command.index("SEED") + 1] == "2"
