# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write videos, each frame at its time: H.264 by PyAV, else MPEG-4 Part 2 by OpenCV."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ...errors import DataError
from ..picture_file import WriteError
from .read import open_video

try:
    import av
except ImportError:  # an extra
    av = None  # type: ignore[assignment]

__all__ = ["VideoFile", "h264_problem", "unfinished"]

_LEAST_ROOM = 1 << 16  # bytes; OpenCV does not say that a video could not be written
_ENCODER = "libx264"
_TICKS = 90000  # of the file's clock in a second: a whole number for each usual rate
_BT709, _TV_RANGE = 1, 1  # as H.264 names them
# No B-frames: the file's length is then that of its frames to the tick.
_OPTIONS = {"preset": "veryfast", "crf": "21", "bf": "0"}


def h264_problem() -> str | None:
    """Why no H.264 can be written here; None if it can."""
    if av is None:
        return "PyAV is not installed: pip install 'mrcnn_ext[video]'"
    try:
        av.codec.Codec(_ENCODER, "w")
    except ValueError:  # PyAV's error is derived from it
        return f"this PyAV has no {_ENCODER}"
    return None


def unfinished(file: Path) -> Path:
    """Where the beginning of a video goes if the run is interrupted."""
    return file.with_name(f"{file.stem}.unfinished{file.suffix}")


class _Encoder(Protocol):
    def write(self, picture: np.ndarray, time: float) -> None: ...

    def end(self) -> None: ...


class VideoFile:
    """A video file that is replaced by a new one when that is closed, not when it is discarded."""

    def __init__(
        self, file: Path, rate: float, shape: tuple[int, ...], *, aspect: float = 1.0
    ) -> None:
        """
        Args:
            file: its name ends with .mp4.
            rate: frames a second, on the average.
            shape: (height, width, …) of each frame.
            aspect: width of a pixel by its height.

        Raises:
            DataError: OpenCV cannot write videos here.
            WriteError: the file cannot be made.
        """
        self.file = file
        self.frames = 0
        self._shape = shape[:2]
        self._temporary = file.with_name(f".{file.stem[:40]}.part.mp4")  # OpenCV goes by the suffix
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._encoder: _Encoder = _make(self._temporary, rate, shape, aspect)
        except OSError as error:
            raise self._error(error) from error
        except DataError as error:
            raise DataError(f"{file} cannot be written: {error}") from error

    def write(self, picture: np.ndarray, time: float) -> None:
        """Add a frame.

        Args:
            picture: uint8 (H, W, 3), BGR.
            time: when it is shown, in seconds; greater than that of the frame before.

        Raises:
            WriteError: the disk is full, say.
        """
        height, width = self._shape
        if picture.shape[:2] != (height, width):  # an encoder would refuse or drop it
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        try:
            self._encoder.write(picture, time)
        except OSError as error:
            raise self._error(error) from error
        self.frames += 1

    def close(self) -> None:
        """Put the file in its place, and delete the unfinished one of an earlier call.

        Raises:
            WriteError: the disk is full, or the folder gone.
        """
        self._put(self.file)
        with suppress(OSError):
            unfinished(self.file).unlink(missing_ok=True)

    def leave(self) -> Path:
        """Put what there is beside the file's place; returns where, see :func:`unfinished`.

        Raises:
            WriteError: as :meth:`close`.
        """
        target = unfinished(self.file)
        self._put(target)
        return target

    def _put(self, target: Path) -> None:
        try:
            self._encoder.end()
            if shutil.disk_usage(self.file.parent).free < _LEAST_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # A limit of the process or of a user is not seen there.
            if not _can_be_read(self._temporary):
                raise OSError(errno.EIO, "it did not become whole; is there room for it?")
            os.replace(self._temporary, target)
        except OSError as error:
            self.discard()
            raise self._error(error) from error

    def discard(self) -> None:
        """Delete what was written; the file that was there before stays."""
        with suppress(OSError):
            self._encoder.end()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _error(self, error: OSError) -> WriteError:
        return WriteError(f"{self.file} cannot be written: {error.strerror or error}")


def _make(file: Path, rate: float, shape: tuple[int, ...], aspect: float) -> _Encoder:
    if h264_problem() is not None:
        return OpenCvEncoder(file, rate, shape)
    return H264Encoder(file, rate, shape, aspect)


class H264Encoder:
    """H.264 in mp4, 4:2:0, with its index in front: what browsers play while it is loaded."""

    def __init__(self, file: Path, rate: float, shape: tuple[int, ...], aspect: float) -> None:
        self._container: Any = av.open(str(file), "w", options={"movflags": "+faststart"})
        rate = min(max(rate, 0.01), 1000.0)
        fraction = Fraction(rate).limit_denominator(1001)
        self._stream: Any = self._container.add_stream(_ENCODER, rate=fraction, options=_OPTIONS)
        # Two pixels share a colour: odd sizes are padded.
        height, width = (side + side % 2 for side in shape[:2])
        stream: Any = self._stream
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.codec_context.sample_aspect_ratio = Fraction(aspect).limit_denominator(255)
        for key in ("color_primaries", "color_trc", "colorspace"):
            setattr(stream.codec_context, key, _BT709)
        stream.codec_context.color_range = _TV_RANGE
        self._interval = round(_TICKS / rate)
        self._last = -1
        self._ended = False

    def write(self, picture: np.ndarray, time: float) -> None:
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        self._last = max(self._last + 1, round(time * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._mux(self._stream.encode(frame))

    def _mux(self, packets) -> None:
        for packet in packets:
            packet.duration = self._interval  # counts for the last one
            self._container.mux(packet)

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            if self._last >= 0:
                self._mux(self._stream.encode(None))
        finally:
            self._container.close()


class OpenCvEncoder:
    """MPEG-4 Part 2 at a constant rate: frames are repeated or dropped, so that times are right."""

    def __init__(self, file: Path, rate: float, shape: tuple[int, ...]) -> None:
        self._rate = rate
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(file), code, rate, (shape[1], shape[0]))
        if not self._writer.isOpened():
            raise DataError("this OpenCV has no mp4 encoder (--no-pictures).")
        self._waiting: np.ndarray | None = None
        self._slot = 0

    def write(self, picture: np.ndarray, time: float) -> None:
        slot = round(time * self._rate)
        self._repeat(slot - self._slot)
        self._waiting, self._slot = picture, max(slot, self._slot)

    def _repeat(self, times: int) -> None:
        if self._waiting is not None:
            for _ in range(times):
                self._writer.write(self._waiting)

    def end(self) -> None:
        self._repeat(1)
        self._waiting = None
        self._writer.release()


def _can_be_read(video: Path) -> bool:
    """Whether it was written to its end, where an mp4 has what it takes to read it."""
    try:
        with open_video(video) as reader:
            return any(frame.problem is None for frame in reader.frames(lambda _: False))
    except DataError:
        return False
