# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The file that predictions are appended to, one line an image, as soon as they are there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..coco.results import result_lines
from ..errors import DataError

__all__ = ["ResultFile"]


class ResultFile:
    """A file of one json object a line, each with "file", the name of its image.

    Attributes:
        path: of the file.
        done: what each line says about its image: name -> its "source".
        num_instances: predictions in all lines.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Open the file.

        Args:
            path: is made if need be.
            resume: keep the lines that are there. A last line that is not whole is cut off.

        Raises:
            DataError: what is there is not such a file.
            OSError: it cannot be written.
        """
        self.path = path
        self.done: dict[str, list | None] = {}
        self.num_instances = 0
        self._source: list | None = None
        self._starts: dict[str, int] = {}
        end = 0
        for after, line in result_lines(path) if resume and path.exists() else ():
            if not isinstance(line.get("file"), str) or not isinstance(line.get("results"), list):
                raise DataError(f"{path}: is not of mrcnn_ext.predict: a line without 'file'.")
            self._count(line, end)
            end = after
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._handle, end)
        self._end = os.lseek(self._handle, end, os.SEEK_SET)
        if end and os.pread(self._handle, 1, end - 1) != b"\n":
            self._write(b"\n")

    def append(self, line: dict) -> None:
        """Write the line of one image; it is there if the process dies right afterwards.

        Raises:
            OSError: it cannot be written, then nothing of it is; or the file was deleted.
        """
        start = self._end
        self._write(json.dumps(line).encode("ascii") + b"\n")
        self._count(line, start)

    def _count(self, line: dict, start: int) -> None:
        source = line.get("source")
        if source == self._source:  # one object for all frames of a long video
            source = self._source
        self.done[line["file"]] = self._source = source
        self._starts[line["file"]] = start
        self.num_instances += len(line["results"])

    def _write(self, data: bytes) -> None:
        # What is written to a deleted file is lost without an error.
        if not os.path.samestat(os.fstat(self._handle), os.stat(self.path)):
            raise OSError(errno.ENOENT, "it was replaced by another file meanwhile")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError:
            os.ftruncate(self._handle, self._end)
            os.lseek(self._handle, self._end, os.SEEK_SET)
            raise
        self._end += len(data)

    def __iter__(self) -> Iterator[dict]:
        """All lines, in the order in which they were written."""
        return (line for _, line in result_lines(self.path))

    def line_of(self, name: str) -> dict:
        """The line of an image that has one."""
        with open(self.path, "rb") as file:
            file.seek(self._starts[name])
            text = file.readline()
            while not text.strip():
                text = file.readline()
        return json.loads(text)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
