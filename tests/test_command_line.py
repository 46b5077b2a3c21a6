# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What the commands share."""

from __future__ import annotations

import os
import re
import sys

import pytest

from mrcnn_ext.command_line import (
    add_import_option,
    add_output_option,
    command_parser,
    import_all,
    open_standard_files,
    say,
    stage_progress,
)
from mrcnn_ext.errors import ConfigError


def test_modules_and_files_are_imported_and_their_hooks_called(tmp_path, monkeypatch):
    (tmp_path / "mrcnn_ext_test_module.py").write_text("x = 1\n")
    file = tmp_path / "mrcnn_ext_test_file.py"
    file.write_text("calls = []\ndef setup_environment():\n    calls.append(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_all(["mrcnn_ext_test_module", str(file)])
    assert sys.modules["mrcnn_ext_test_module"].x == 1
    assert sys.modules["mrcnn_ext_test_file"].calls == [1]
    import_all([str(file)])  # not executed anew
    assert sys.modules["mrcnn_ext_test_file"].calls == [1, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no_such_module", None, "ModuleNotFoundError: .*no_such_module"),
        ("absent.py", None, "ImportError: there is no file"),
        ("mrcnn_ext_test_bad.py", "1 / 0", "ZeroDivisionError"),
        (
            "mrcnn_ext_test_hook.py",
            "def setup_environment():\n    raise KeyError('x')",
            "KeyError: 'x'",
        ),
    ],
)
def test_what_cannot_be_imported_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
        name = str(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"^--import {name}: {message}"):
        import_all([name])


def test_progress_is_silent_without_a_terminal(capsys):
    with stage_progress() as progress:
        progress("images", 1, 2)
        progress("annotations", 0, 1)
        progress("images", 2, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == ""


@pytest.mark.parametrize("name", ["--out", "--output"])
def test_either_name_of_the_output_is_taken_and_one_is_shown(name):
    parser = command_parser("mrcnn_ext.some", "what it does")
    add_output_option(parser, name, required=True)
    for given in ("--out", "--output"):
        assert getattr(parser.parse_args([given, "x"]), name[2:]) == "x"
    shown = set(re.findall(r"--out\w*", parser.format_help()))
    assert shown == {name}


@pytest.mark.parametrize("several", [True, False])
def test_import_may_be_repeated(several):
    parser = command_parser("mrcnn_ext.some", "what it does")
    add_import_option(parser, several=several)
    assert parser.parse_args(["--import", "a", "--import", "b"]).imports == ["a", "b"]
    assert parser.parse_args([]).imports == []
    if several:
        assert parser.parse_args(["--import", "a", "b", "--import", "c"]).imports == list("abc")


def test_a_module_that_exits_is_an_error(tmp_path):
    file = tmp_path / "mrcnn_ext_test_exits.py"
    file.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ConfigError, match="SystemExit: 0"):
        import_all([str(file)])


@pytest.mark.parametrize("closed", [(0, 1, 2), (2,)])
def test_files_do_not_take_the_place_of_closed_standard_ones(closed, tmp_path):
    child = os.fork()
    if not child:
        code = 1
        try:
            for number in closed:
                os.close(number)
            sys.stderr = None
            open_standard_files()
            print("lost", file=sys.stderr)
            null = os.stat(os.devnull)
            same = all(os.path.samestat(os.fstat(number), null) for number in closed)
            file = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
            code = 0 if same and file > 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("error", [False, True])
def test_lines_that_nobody_reads_do_not_end_the_work(error, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as broken:
        monkeypatch.setattr(sys, "stderr" if error else "stdout", broken)
        say("lost", error=error)
        say("lost, too", error=error)
        assert os.path.samestat(os.fstat(write), os.stat(os.devnull))
    # Closing it, as Python does at its end, did not fail.
