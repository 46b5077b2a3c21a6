# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The script behind `make demo` and `make test`: when it rebuilds, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.helpers import REPO, load_script

bootstrap = load_script(REPO / "tools" / "bootstrap.py")


@pytest.fixture
def recorded(monkeypatch):
    """Steps are recorded instead of run; step 3 leaves a wheel, as it would."""
    commands = []

    def run(command, cwd=None, **kwargs):
        commands.append(command)
        if "tools/build_detectron2.py" in command:
            out = command[command.index("--out") + 1]
            bootstrap.Path(out).mkdir(parents=True)
            (bootstrap.Path(out) / "detectron2-0.6-py3-none-any.whl").touch()
        if command[1:3] == ["-m", "venv"]:
            (bootstrap.Path(command[3]) / "bin").mkdir(parents=True)
            (bootstrap.Path(command[3]) / "bin" / "python").touch()
            (bootstrap.Path(command[3]) / "pyvenv.cfg").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    return commands


def test_builds_once_and_again_when_a_pin_or_the_source_changes(tmp_path, recorded, monkeypatch):
    arguments = ["--venv", str(tmp_path / "env")]
    assert bootstrap.main(arguments) == 0
    assert len(recorded) == 4
    assert bootstrap.main(arguments) == 0
    assert recorded[4:] == [[str(tmp_path / "env/bin/python"), "mrcnn_ext/layers/build_kernels.py"]]
    del recorded[4:]  # an up-to-date environment is used as it is, but for the kernels
    stamp = json.loads((tmp_path / "env" / bootstrap.STAMP).read_text())
    assert stamp["source"] == "0.6"
    assert bootstrap.main([*arguments, "--source", "/a/checkout"]) == 0
    assert len(recorded) == 8
    (tmp_path / "copy").mkdir()
    for name in bootstrap._KEYED_FILES:
        (tmp_path / "copy" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_text((REPO / name).read_text() + "\n# changed pin")
    monkeypatch.setattr(bootstrap, "REPO", tmp_path / "copy")
    assert bootstrap.main([*arguments, "--source", "/a/checkout"]) == 0
    assert len(recorded) == 12


def test_an_interrupted_build_is_done_again(tmp_path, recorded):
    venv = tmp_path / "env"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    assert bootstrap.main(["--venv", str(venv)]) == 0
    assert len(recorded) == 4


def test_an_interrupted_removal_is_done_again(tmp_path, recorded, monkeypatch):
    venv = tmp_path / "env"
    for folder in ("bin", "lib"):
        (venv / folder).mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()

    def interrupted(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bootstrap.main(["--venv", str(venv)])
    assert (venv / "pyvenv.cfg").exists()
    assert bootstrap.main(["--venv", str(venv)]) == 0
    assert len(recorded) == 4


def test_a_folder_of_yours_is_not_deleted(tmp_path, recorded, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    assert bootstrap.main(["--venv", str(tmp_path / "photos")]) == 1
    assert "no virtual environment" in capsys.readouterr().err
    assert (tmp_path / "photos" / "cat.jpg").exists()
    assert recorded == []


def test_a_failed_step_says_what_to_do_and_leaves_no_stamp(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        bootstrap.subprocess,
        "run",
        lambda command, **kwargs: subprocess.CompletedProcess(command, 3),
    )
    assert bootstrap.main(["--venv", str(tmp_path / "env")]) == 1
    error = capsys.readouterr().err
    assert "step 1 (creating" in error
    assert "exit code 3" in error
    assert "python3-venv" in error
    assert not (tmp_path / "env" / bootstrap.STAMP).exists()


def test_too_little_space_and_too_old_python_are_said_first(tmp_path, monkeypatch, capsys):
    usage = bootstrap.shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: usage)
    assert bootstrap.main(["--venv", str(tmp_path / "env")]) == 1
    assert "1.0 GiB are free" in capsys.readouterr().err
    monkeypatch.setattr(
        bootstrap, "MIN_PYTHON", (sys.version_info.major, sys.version_info.minor + 1)
    )
    assert bootstrap.main(["--venv", str(tmp_path / "env")]) == 1
    assert "too old" in capsys.readouterr().err


def test_pins_name_one_version_each():
    lines = (REPO / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 20
    assert all(line.count("==") == 1 for line in pins)
