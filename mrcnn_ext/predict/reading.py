# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Decode the images and video frames that are to be predicted."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import UnidentifiedImageError

from ..data.image_file import ImageReader
from ..data.pictures import picture_problem
from ..errors import DataError
from ..files import is_special
from .sources import Source

__all__ = ["Frame", "read_frames"]


@dataclass(frozen=True, eq=False)
class Frame:
    """An image, the frame of a video, or in place of one why there is none.

    Attributes:
        source: where it is from.
        name: of the image in the results.
        image: uint8 (H, W, 3), BGR; with bands, (H, W, C) as the model gets it; None if nothing is to
            be done.
        stamp: of its file, from before it was read.
        picture: file to draw to, for a video its whole; None draws nothing.
        rate: of a video's frames that are taken, in frames a second.
        fault: why it is left out.
        is_last: of its source.
    """

    source: Source
    name: str
    image: np.ndarray | None = None
    stamp: tuple[int, ...] = ()
    picture: Path | None = None
    rate: float = 0.0
    fault: Exception | None = None
    is_last: bool = False

    @property
    def size(self) -> int:
        """In bytes."""
        return 0 if self.image is None else self.image.nbytes


def read_frames(
    sources: Sequence[Source],
    done: Collection[str],
    *,
    every: int,
    pictures: Path | None,
    reader: ImageReader | None = None,
) -> Generator[Frame, None, None]:
    """Read all sources; a fault of one does not end the others.

    Args:
        sources: images and videos.
        done: names that are in the results already. One is read only if its picture is missing.
        every: take every Nth frame of a video.
        pictures: the folder of the pictures; None draws none.
        reader: of the model; None, or without bands: images are BGR, whatever the model's order is.

    Yields:
        one of each image and frame that is taken or at fault; of a video one more, the last.
    """
    if reader is None or not reader.by_band:
        reader = ImageReader("BGR")
    for source in sources:
        file = None if pictures is None else pictures / source.picture_name()
        try:
            problem = source.name_problem()
            if problem is None and is_special(source.path):  # it was replaced meanwhile
                problem = "is a pipe, socket or device, expected a file"
            if problem is not None:
                raise DataError(f"{source.path}: {problem}.")
            if source.is_video:
                yield from _video(source, done, every, file, reader)
                yield Frame(source, source.name, is_last=True)
            else:
                yield _image(source, done, file, reader)
        except Exception as error:
            yield Frame(source, source.name, fault=error, is_last=True)


def _image(source: Source, done: Collection[str], file: Path | None, reader: ImageReader) -> Frame:
    if source.name in done and (file is None or file.exists()):
        return Frame(source, source.name, is_last=True)
    problem = None if reader.by_band else picture_problem(source.path)
    if problem is not None:
        raise DataError(f"{source.path}: {problem}.")
    stamp = tuple(source.stamp())
    try:
        image = reader(source.path)  # turned as its EXIF data say
    except DataError:
        raise
    except UnidentifiedImageError as error:  # its text is Python's name of the opened file
        raise DataError(f"{source.path}: is no image that Pillow can read.") from error
    except Exception as error:  # Pillow raises many kinds
        raise DataError(f"{source.path}: {error}") from error
    return Frame(source, source.name, image, stamp, file, is_last=True)


def _video(
    source: Source, done: Collection[str], every: int, file: Path | None, reader: ImageReader
) -> Generator[Frame, None, None]:
    if file is not None and file.exists() and _is_complete(source, done, every):
        file = None
    stamp, index = tuple(source.stamp()), -1
    capture = cv2.VideoCapture(str(source.path))
    try:
        rate = (capture.get(cv2.CAP_PROP_FPS) or 25.0) / every
        while True:
            index += 1
            # grab() alone skips a frame without decoding it.
            if not capture.grab():
                break
            name = f"{source.name}#{index}"
            if index % every:
                continue
            if name in done and file is None:
                yield Frame(source, name)
                continue
            ok, image = capture.retrieve()
            if not ok:
                raise DataError(f"{source.path}: frame {index} cannot be decoded.")
            yield Frame(source, name, reader.of_frame(image, source.path), stamp, file, rate)
        if index == 0:
            raise DataError(f"{source.path}: no frame of it can be decoded.")
    finally:
        capture.release()


def _is_complete(source: Source, done: Collection[str], every: int) -> bool:
    """Whether a video was done, to its end, by an earlier call."""
    capture, index = cv2.VideoCapture(str(source.path)), 0
    try:
        while capture.grab():
            if index % every == 0 and f"{source.name}#{index}" not in done:
                return False
            index += 1
    finally:
        capture.release()
    return True
