# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Files that are replaced whole, and folders of one process."""

from __future__ import annotations

import json
import os
import shutil
import tempfile

import pytest

from mrcnn_ext.errors import DataError
from mrcnn_ext.files import (
    LOCK,
    check_writable,
    drop_torn_line,
    is_special,
    only_process,
    remove_leftovers,
    replaced_file,
    temporary_folder,
    write_json,
    write_text,
)


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    file = tmp_path / "new" / "a.txt"
    with replaced_file(file) as temporary:
        temporary.write_text("whole")
        assert not file.exists()
        assert temporary.parent == file.parent  # one file system, so that it can be renamed
    assert file.read_text() == "whole"
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(file.parent.iterdir()) == [file]


def test_an_error_keeps_the_old_file(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    with pytest.raises(TypeError):
        write_json(file, {"new": [1, object()]})
    with pytest.raises(KeyboardInterrupt), replaced_file(file):
        raise KeyboardInterrupt
    assert json.loads(file.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_held_once(tmp_path):
    held = only_process(tmp_path / "run")
    with held, pytest.raises(DataError, match=r"another process is at work in .*run"):
        only_process(tmp_path / "run").__enter__()
    with only_process(tmp_path / "run"):
        pass


def test_text_is_written_whole_into_a_folder_that_is_made(tmp_path):
    file = tmp_path / "new" / "results.md"
    for text in ("first ±\n", "second"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert [path.name for path in file.parent.iterdir()] == ["results.md"]


def test_a_lock_leaves_no_file_and_one_that_was_left_holds_nobody_back(tmp_path):
    with only_process(tmp_path / "run"):
        assert [file.name for file in (tmp_path / "run").iterdir()] == [".lock"]
    assert not list((tmp_path / "run").iterdir())
    (tmp_path / "run" / ".lock").write_text("")  # of a process that was killed
    with only_process(tmp_path / "run"), pytest.raises(DataError, match="another process"):
        only_process(tmp_path / "run").__enter__()


def test_a_folder_is_tried_by_writing(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"nothing can be written to .*file: File exists"):
        check_writable(tmp_path / "file")
    with pytest.raises(DataError, match=r"nothing can be written to .*below: Not a directory"):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(DataError, match=r"null"):
        check_writable("a\0b")


def test_leftovers_of_killed_processes_are_deleted_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", 1)
    (tmp_path / ".hidden").write_text("")
    with replaced_file(tmp_path / ("long" * 60 + ".json")) as temporary:
        left = temporary.with_name(f"{temporary.stem}2{temporary.suffix}")  # of a killed process
        left.write_text("half")
        assert len(temporary.name) < 100
    (tmp_path / ("long" * 60 + ".json")).unlink()
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".hidden", "a.json"]


def test_a_temporary_folder_of_a_killed_process_is_deleted_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    held, note = tmp_path / "held", tmp_path / "held" / ".temporary"
    (tmp_path / "tmp").mkdir()
    held.mkdir()
    with temporary_folder(held) as folder:
        assert note.read_text() == str(folder)
        (folder / "socket").write_text("")
    assert not folder.exists()
    assert not note.exists()
    left = tmp_path / "tmp" / "mrcnn_ext_abcd1234"
    elsewhere = tmp_path / "mrcnn_ext_abcd1234"
    named = tmp_path / "tmp" / "thesis"
    linked = tmp_path / "tmp" / "mrcnn_ext_linked12"
    for made in (left, elsewhere, named):
        (made / "deep").mkdir(parents=True)
    linked.symlink_to(named)
    for name in (left, elsewhere, named, linked, f"{left}/../thesis", "", "\0", tmp_path / "tmp"):
        note.write_text(str(name))
        with temporary_folder(held):
            pass
    assert not left.exists()
    assert all((kept / "deep").is_dir() for kept in (elsewhere, named))


@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("a\nb\n", "a\nb\n"), ("a\nhal", "a\n"), ("hal", ""), ("a\n" + "x" * 200000, "a\n")],
)
def test_half_a_line_is_dropped(tmp_path, before, after):
    file = tmp_path / "metrics.json"
    drop_torn_line(file)  # there is none
    file.write_text(before)
    drop_torn_line(file)
    assert file.read_text() == after


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"nothing can be written to .*file"):
        only_process(tmp_path / "file").__enter__()


def test_an_interruption_after_the_replacement_stays_an_interruption(tmp_path, monkeypatch):
    replace = os.replace

    def interrupted(*arguments):
        replace(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_the_lock_of_a_folder_that_was_made_anew_stays(tmp_path):
    folder = tmp_path / "out"
    with only_process(folder):
        shutil.rmtree(folder)
        with only_process(folder):
            inner = (folder / LOCK).stat()
            folder.rename(tmp_path / "moved")
            folder.mkdir()
            (folder / LOCK).write_text("")
        assert (folder / LOCK).exists()
        assert (tmp_path / "moved" / LOCK).stat().st_ino == inner.st_ino
    assert (folder / LOCK).exists()


def test_pipes_and_devices_are_special(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "file").write_text("")
    special = {name for name in ("pipe", "zero", "file", "none") if is_special(tmp_path / name)}
    assert special == {"pipe", "zero"}
    assert not is_special(tmp_path)
    assert not is_special("x\0")
