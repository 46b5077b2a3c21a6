# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write pictures, whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import cv2
import numpy as np

from ..errors import DataError
from ..files import replaced_file

__all__ = ["WriteError", "write_error", "write_picture"]

# Errors of one name, not of the disk
_OF_A_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ)


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
