# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The benchmarks of inference and training run and write what they say."""

from __future__ import annotations

import json

import pytest

from tests.helpers import REPO, run_python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [("inference", ["--threads", 1, "--steps"]), ("training_step", ["--threads", 1])],
)
def test_a_quick_run_writes_all_rows(script, options, tmp_path):
    path = REPO / "benchmarks" / f"bm_{script}.py"
    result = run_python([path, "--quick", *options, "--out", tmp_path], timeout=900)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / f"{script}.json").read_text())
    assert report["machine"]["processor"]
    rows = report["results"]
    rows = list(rows.values()) if isinstance(rows, dict) else rows
    assert len(rows) >= 5
    for row in rows:
        assert row.get("not measured") or row.get("ratio") or row.get("times as fast")
