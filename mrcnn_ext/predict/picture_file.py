# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write pictures and videos, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from ..errors import DataError
from ..files import replaced_file

__all__ = ["VideoFile", "WriteError", "write_error", "write_picture"]

# Errors of one name, not of the disk
_OF_A_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ)
_LEAST_ROOM = 1 << 16  # bytes; OpenCV does not say that a video could not be written


class WriteError(OSError):
    """Of the disk: there is no sense in going on."""


def write_picture(file: Path, picture: np.ndarray) -> None:
    """Write a PNG.

    Raises:
        DataError: no file can have this name.
        WriteError: nothing can be written.
    """
    _, encoded = cv2.imencode(".png", picture)
    try:
        with replaced_file(file) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError as error:
        raise write_error(file, error) from error


def write_error(file: Path, error: OSError) -> Exception:
    """What to raise where ``file`` could not be written: DataError if it is for its name."""
    message = f"{file} cannot be written: {error.strerror or error}"
    return (DataError if error.errno in _OF_A_NAME else WriteError)(message)


class VideoFile:
    """A video file that is replaced by a new one when that is closed, not when it is discarded."""

    def __init__(self, file: Path, rate: float, shape: tuple[int, ...]) -> None:
        """
        Args:
            file: its name ends with .mp4.
            rate: frames a second.
            shape: (height, width, …) of each frame.

        Raises:
            DataError: OpenCV cannot write videos here.
            WriteError: the folder cannot be made.
        """
        self.file = file
        self._temporary = file.with_name(f".{file.stem[:40]}.part.mp4")  # OpenCV goes by the suffix
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{file} cannot be written: {error.strerror}") from error
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._shape = shape[:2]
        self._writer = cv2.VideoWriter(str(self._temporary), code, rate, (shape[1], shape[0]))
        if not self._writer.isOpened():
            raise DataError(
                f"{file} cannot be written: this OpenCV has no mp4 encoder (--no-pictures)."
            )

    def write(self, picture: np.ndarray) -> None:
        """Add a frame, BGR."""
        height, width = self._shape
        if picture.shape[:2] != (height, width):  # OpenCV would drop it without a word
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        self._writer.write(picture)

    def close(self) -> None:
        """Put the file in its place.

        Raises:
            WriteError: the disk is full, or the folder gone.
        """
        self._writer.release()
        try:
            if shutil.disk_usage(self.file.parent).free < _LEAST_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # A limit of the process or of a user is not seen there.
            if not _can_be_read(self._temporary):
                raise OSError(errno.EIO, "it did not become whole; is there room for it?")
            os.replace(self._temporary, self.file)
        except OSError as error:
            self.discard()
            raise WriteError(f"{self.file} cannot be written: {error.strerror}") from error

    def discard(self) -> None:
        """Delete what was written; the file that was there before stays."""
        self._writer.release()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _can_be_read(video: Path) -> bool:
    """Whether it was written to its end, where an mp4 has what it takes to read it."""
    capture = cv2.VideoCapture(str(video))
    try:
        return capture.grab()
    finally:
        capture.release()
