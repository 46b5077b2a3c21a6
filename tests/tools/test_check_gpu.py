# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The scripts that check a GPU, as far as they go without one."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import REPO, load_script, run_python

check_gpu = load_script(REPO / "tools" / "check_gpu.py")
sanitize_cuda = load_script(REPO / "tools" / "sanitize_cuda.py")

# ---- check_gpu ---------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so_in_a_sentence(tmp_path):
    tool = REPO / "tools" / "check_gpu.py"
    # "-1" hides what there may be.
    result = run_python([tool, "--out", tmp_path], env={"CUDA_VISIBLE_DEVICES": "-1"})
    assert result.returncode == 2
    assert re.fullmatch(
        r"check_gpu: there is no GPU that PyTorch \S+ can use, so nothing was checked\.\n",
        result.stderr,
    )
    assert not list(tmp_path.iterdir())


@pytest.fixture
def run(tmp_path):
    run = check_gpu.Run(tmp_path, 60)
    run.device = {"gpu": "Some GPU", "torch": "2.0"}
    return run


def part(name: str, code: str, **arguments):
    return check_gpu.Part(name, [sys.executable, "-c", code], **{"limit": 50, **arguments})


def test_each_part_leaves_a_page_and_a_json(run, tmp_path):
    run.parts = [
        part("good", "print('all | well')"),
        part("bad", "import sys; print('what went wrong'); sys.exit(3)"),
        part("later", ""),
    ]
    run.do(run.parts[0])
    report = json.loads((tmp_path / "check_gpu.json").read_text())
    assert [p["status"] for p in report["parts"]] == ["passed", "waiting", "waiting"]
    run.do(run.parts[1])
    (tmp_path / "roi_align.md").write_text("a table\n")
    run.write()
    page = (tmp_path / "check_gpu.md").read_text()
    assert page.startswith("# mrcnn_ext on Some GPU\n")
    assert re.search(r"\| good \| passed \| \d+ \| all / well \|", page)
    assert "## bad: failed\n\n```\nwhat went wrong\n```" in page
    assert page.endswith("## RoIAlign\n\na table\n")
    assert (tmp_path / "bad.log").read_text() == "what went wrong\n"


def test_a_part_that_takes_too_long_ends_with_all_it_started(run, tmp_path):
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    slow = part("slow", code, limit=6)
    run.do(slow)
    assert slow.status == "timed out"
    number = int((tmp_path / "slow.log").read_text())
    deadline = time.monotonic() + 10  # a signal takes a moment to arrive
    while _runs(number) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(number)


def _runs(number: int) -> bool:
    """Whether a process is neither gone nor a zombie that nobody has waited for."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_what_no_time_is_left_for_is_not_started(run, tmp_path):
    run.end = 0
    late = part("late", "open('started', 'w')")
    run.do(late)
    assert late.status == "not reached"
    assert not (tmp_path / "late.log").exists()


def test_failures_of_tests_are_named(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip\n"
        "def test_not(): pass\n"
        "def test_broken(missing): pass\n"
    )
    report = tmp_path / "tests.xml"
    run_python(["-m", "pytest", "-q", tmp_path, f"--junitxml={report}"], cwd=tmp_path)
    summary, failures = check_gpu.read_tests(report)
    assert summary == "1 passed, 2 failed, 1 skipped"
    assert [line for line in failures if "::" in line] == [
        "test_it::test_bad",
        "test_it::test_broken",
    ]
    assert any("assert 1 == 2" in line for line in failures)
    assert check_gpu.read_tests(tmp_path / "none.xml") == ("pytest wrote no report", [])


def test_every_test_that_needs_a_gpu_is_marked():
    files = check_gpu.tests_with_a_gpu_mark()
    assert {str(p.relative_to(REPO)) for p in (REPO / "tests/gpu").glob("test_*.py")} <= set(files)
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    result = run_python(["-m", "pytest", *options, *files])
    collected = {line.partition("::")[0] for line in result.stdout.splitlines() if "::" in line}
    assert len(collected) >= 4, result.stdout[-2000:]


def test_parts_are_what_the_help_says(run):
    parts = check_gpu.make_parts(run, demo=True)
    for name, one in parts.items():
        assert one.name == name
        assert f"- {name}" in check_gpu.__doc__
        script = next((x for x in one.command if x.endswith(".py") and "/" in x), None)
        assert script is None or (REPO / script).is_file()


# ---- sanitize_cuda -----------------------------------------------------------------------------------


@pytest.fixture
def sanitizer(tmp_path):
    """Makes a compute-sanitizer that ends as it is told: with planted faults, and with the cases."""

    def make(planted: int, cases: int, output: str = "44 cases without a difference"):
        path = tmp_path / "compute-sanitizer"
        path.write_text(
            f'#!/bin/sh\ncase "$*" in *--in-process*) echo "{output}"; exit {cases};; esac\n'
            f"exit {planted}\n"
        )
        path.chmod(0o755)
        return str(path)

    return make


@pytest.mark.parametrize(
    ("codes", "good", "words"),
    [
        ((86, 0), True, "sees the planted fault; 44 cases without a difference, no findings"),
        ((0, 0), False, "does not see the planted fault"),
        ((86, 86), False, "findings"),
        ((86, 1), False, "the cases failed with 1"),
    ],
)
def test_a_tool_must_see_the_planted_fault_and_nothing_else(sanitizer, codes, good, words):
    result = sanitize_cuda.check(sanitizer(*codes), "memcheck", Path("faults"), 60)
    assert result[0] == good
    assert re.match(f"memcheck: {words}", result[1])


def test_cases_that_did_not_come_to_their_end_are_a_failure(sanitizer):
    good, words = sanitize_cuda.check(sanitizer(86, 0, ""), "racecheck", Path("faults"), 60)
    assert not good
    assert "the cases failed" in words


def test_only_our_kernels_are_looked_at_and_the_faults_are_among_them():
    for tool in sanitize_cuda.TOOLS:
        command = sanitize_cuda.command("compute-sanitizer", tool, ["program"])
        assert command[command.index("--kernel-name") + 1] == "kernel_substring=mrcnn_ext"
        assert command[-1] == "program"
        assert f'"{tool}"' in sanitize_cuda.FAULTS.read_text()
    for source in (sanitize_cuda.FAULTS, REPO / "mrcnn_ext/layers/csrc/cuda/roi_align.cu"):
        text = source.read_text()
        namespace = text.index("namespace mrcnn_ext {")
        assert all(namespace < match.start() for match in re.finditer("__global__", text))


def test_a_missing_tool_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sanitize_cuda, "find_sanitizer", lambda: None)
    monkeypatch.setattr(sys, "argv", ["sanitize_cuda.py"])
    assert sanitize_cuda.main() == 1
    assert "there is no compute-sanitizer" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_a_program_that_hangs_is_ended(tmp_path):
    code, output = sanitize_cuda.run(["/bin/sh", "-c", "echo begun; sleep 600"], 2)
    assert code == 124
    assert output == "begun\n"
