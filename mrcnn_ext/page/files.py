# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures as bytes and data URIs, and a folder whose files appear all at once."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np

from ..errors import DataError
from ..files import only_process

__all__ = ["data_uri", "jpeg_bytes", "png_bytes", "staged_folder"]

_WORK = ".report."  # starts the names of temporary folders
# Full colour resolution: thin coloured lines would smear otherwise.
_JPEG = (
    cv2.IMWRITE_JPEG_QUALITY, 90,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip


def png_bytes(picture: np.ndarray) -> bytes:
    """Encode a uint8 (H, W, 3) RGB picture."""
    return _encoded(picture, ".png")


def jpeg_bytes(picture: np.ndarray) -> bytes:
    """Encode a uint8 (H, W, 3) RGB picture, with sharp colours."""
    return _encoded(picture, ".jpg", _JPEG)


def _encoded(picture: np.ndarray, suffix: str, options: Sequence[int] = ()) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(picture[:, :, ::-1]), options)
    if not done:
        raise OSError(f"OpenCV cannot write {suffix[1:].upper()}")
    return data.tobytes()


def data_uri(data: bytes, kind: str) -> str:
    """``data`` as the address of an image of a kind, "png" or "jpeg"."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out``'s files; move its files to ``out`` when all are finished.

    Raises:
        DataError: ``out`` cannot be written, or another process is at work in it; nothing in it has
            changed if a file was not finished.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(only_process(out))
        except DataError as error:
            raise DataError(f"--out {out}: {error}") from error
        for left in out.glob(f"{_WORK}{'?' * 8}"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield from _staged(out)


def _staged(out: Path) -> Iterator[Path]:
    try:
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=out))
    except OSError as error:
        raise DataError(f"--out {out}: {error.strerror or error}.") from error
    try:
        yield work
        # The page comes last: if it is there, so is the rest.
        for path in sorted(work.iterdir(), key=lambda p: p.suffix == ".html"):
            target = out / path.name
            if path.is_dir() and target.is_dir():
                target.rename(work / "old")
            os.replace(path, target)
    except OSError as error:
        raise DataError(f"--out {out}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
