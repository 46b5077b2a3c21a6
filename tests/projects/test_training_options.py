# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""projects/TrainingOptions: its configs, a study in small."""

from __future__ import annotations

import json

import pytest

from mrcnn_ext.config.load import load_config
from tests.helpers import REPO, load_script, run_python

PROJECT = REPO / "projects" / "TrainingOptions"


study = load_script(PROJECT / "study.py")


@pytest.mark.parametrize("training", study.STUDY.trainings)
def test_trainings_differ_in_what_they_are_named_after(training):
    cfg = load_config(str(PROJECT / "configs" / f"{training}.yaml"))
    keys = cfg.MRCNN_EXT
    assert keys.RESUME.EXACT
    assert cfg.INPUT.MAX_SIZE_TRAIN <= 320
    assert (cfg.SOLVER.IMS_PER_BATCH == 4) == (training not in ("sgd", "adamw_cosine"))
    assert (keys.SOLVER.ACCUMULATE == 2) == training.startswith("accumulated")
    assert (keys.SOLVER.OPTIMIZER == "AdamW") == (training == "adamw_cosine")
    assert (training in ("sgd", "adamw_cosine")) == keys.EMA.ENABLED


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
    assert all("1" in values[row]["segm/AP"] for row in study.STUDY.rows)
    # Once more: nothing is trained again.
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/*/metrics.json")}
    assert len(before) == len(study.STUDY.trainings)
    _run(command)
    assert {p: p.stat().st_mtime_ns for p in before} == before
