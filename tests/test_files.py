# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Files that are replaced whole, and folders of one process."""

from __future__ import annotations

import json

import pytest

from mrcnn_ext.errors import DataError
from mrcnn_ext.files import only_process, replaced_file, write_json, write_text


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
