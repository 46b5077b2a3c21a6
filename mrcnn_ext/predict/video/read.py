# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Decode videos frame by frame, with the time of each, turned upright; broken frames are named.

PyAV does it where it is installed. OpenCV, the fallback, passes over some broken frames without a word:
of them only the number can be told.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ...errors import DataError

try:
    import av
except ImportError:  # an extra
    av = None  # type: ignore[assignment]

__all__ = ["VideoFrame", "VideoReader", "open_video", "upright"]

_RATE = 25.0  # frames a second of a video that does not say its own
_MOST_LINES = 5  # about broken frames of one video; the others are counted
_MOST_DEMUX_ERRORS = 16  # one after another
_MOST_BROKEN = 100  # frames in a row for OpenCV, which does not tell them from the end
_LONGEST_GAP = 60.0  # seconds; clocks that jump further are taken to be set anew
_CUT = 0.5  # seconds that may be missing at the end
_DISPLAY_MATRIX = "DISPLAYMATRIX"


class VideoFrame(NamedTuple):
    """A frame, or several in a row that are broken.

    Attributes:
        position: of the frame in the video, from 0; broken ones count.
        time: when it is shown, in seconds from the first frame; greater than that of the frame before.
        image: uint8 (H, W, 3), BGR; None if it is not wanted, or broken.
        problem: why there is no image, a sentence without the file's name.
    """

    position: int
    time: float
    image: np.ndarray | None = None
    problem: str | None = None


class _Raw(NamedTuple):
    """What a decoder gives: a frame's time by the file's clock, and how to get its picture."""

    time: float | None
    picture: Callable[[], np.ndarray] | None = None
    problem: str = ""


class VideoReader(ABC):
    """An open video; to be used as a context, and read once.

    Attributes:
        rate: frames a second, on the average.
        aspect: width of a pixel by its height.
    """

    rate: float = _RATE
    aspect: float = 1.0

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def _decoded(self) -> Iterator[_Raw]:
        """All frames in the order in which they are shown."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _missing(self, frames: int) -> str | None:
        """What is missing behind the last frame, where ``frames`` were decoded."""

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def frames(self, wanted: Callable[[int], bool]) -> Iterator[VideoFrame]:
        """All frames.

        Args:
            wanted: tells of a position whether the image is needed.

        Raises:
            DataError: not a single frame can be decoded.
        """
        clock, broken = _Clock(1 / self.rate), _BrokenFrames()
        index, decoded, time = -1, 0, 0.0
        for raw in self._decoded():
            index += 1
            image, problem = None, raw.problem
            if raw.picture is not None and wanted(index):
                try:
                    image = raw.picture()
                except Exception as error:  # of a colour format, say
                    problem = f"{type(error).__name__}: {error}"
            if problem:
                broken.add(index, problem)
                continue
            if (text := broken.end()) is not None:
                yield VideoFrame(index - 1, time, problem=text)
            time, decoded = clock.time(raw.time), decoded + 1
            yield VideoFrame(index, time, image)
        if decoded == 0:
            raise DataError(f"{self.path}: no frame of it can be decoded.")
        for text in filter(None, [broken.end(), broken.not_said(), self._missing(decoded)]):
            yield VideoFrame(index, time, problem=text)


class _Clock:
    """Makes a file's times begin at 0 and increase; what they tell about pauses stays."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._longest = max(_LONGEST_GAP, 100 * interval)
        self._offset: float | None = None
        self._last: float | None = None

    def time(self, stamp: float | None) -> float:
        last = self._last
        time = expected = 0.0 if last is None else last + self._interval
        if stamp is not None:
            if self._offset is None:
                self._offset = stamp - expected
            time = stamp - self._offset
            if last is not None and not last < time <= last + self._longest:
                # Files that were joined, or a recorder that was set: go on from here.
                time, self._offset = expected, stamp - expected
        self._last = time
        return time


class _BrokenFrames:
    """Sentences about broken frames: one for those that follow each other."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._last, self._reason = 0, ""
        self._said, self._more = 0, 0

    def add(self, index: int, reason: str) -> None:
        if self._first is None:
            self._first, self._reason = index, reason
        self._last = index

    def end(self) -> str | None:
        """About those before this call, if there are any and not too much was said."""
        if self._first is None:
            return None
        first, self._first = self._first, None
        if self._said >= _MOST_LINES:
            self._more += self._last - first + 1
            return None
        self._said += 1
        which = (
            f"frame {first} is" if first == self._last else f"frames {first} to {self._last} are"
        )
        return f"{which} broken ({self._reason})."

    def not_said(self) -> str | None:
        return f"{self._more} more frames are broken." if self._more else None


def open_video(path: Path) -> VideoReader:
    """Open a video.

    Raises:
        DataError: it is none, or damaged at a place without which nothing can be read.
    """
    return OpenCvReader(path) if av is None else PyAvReader(path)


class PyAvReader(VideoReader):
    """Decodes with PyAV."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._container: Any = av.open(str(path))
        except av.error.FFmpegError as error:
            reason = error.strerror or "it is damaged"
            raise DataError(f"{path}: no frame of it can be decoded: {reason}.") from error
        stream: Any = self._container.streams.best("video")  # never the cover of a song
        if stream is None:
            self._container.close()
            raise DataError(f"{path}: no frame of it can be decoded: it holds no video.")
        self._stream = stream
        rate = stream.average_rate or stream.guessed_rate
        if rate and math.isfinite(rate) and rate > 0:
            self.rate = float(rate)
        self.aspect = float(stream.sample_aspect_ratio or 1)
        self._end = -math.inf  # of the last packet, in seconds by the file's clock

    def close(self) -> None:
        self._container.close()

    def _decoded(self) -> Iterator[_Raw]:
        broken: list[tuple[float, str]] = []  # of packets, which come in another order than frames
        turned = False
        for packet in self._packets():
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                stamp = packet.pts if packet.pts is not None else packet.dts
                time = math.inf if stamp is None else float(stamp * packet.time_base)
                heapq.heappush(broken, (time, error.strerror or "it cannot be decoded"))
                continue
            for frame in frames:
                while broken and frame.time is not None and broken[0][0] <= frame.time:
                    yield _Raw(None, problem=heapq.heappop(broken)[1])
                if frame.is_corrupt:
                    yield _Raw(None, problem="it is damaged")
                    continue
                matrix = _display_matrix(frame)
                if not turned and matrix is not None and abs(matrix[1]) > abs(matrix[0]):
                    self.aspect = 1 / self.aspect
                turned = True
                yield _Raw(frame.time, partial(_picture, frame, matrix))
        for _, reason in sorted(broken):
            yield _Raw(None, problem=reason)

    def _packets(self) -> Iterator:
        """Packets of the video, also behind a damaged place."""
        packets, errors = self._container.demux(self._stream), 0
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError:
                errors += 1
                if errors > _MOST_DEMUX_ERRORS:
                    return
                packets = self._container.demux(self._stream)
                continue
            errors = 0
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._end = max(self._end, end)
            yield packet

    def _missing(self, frames: int) -> str | None:
        stream: Any = self._stream
        end = self._end
        if stream.duration is not None and stream.time_base:
            start = float((stream.start_time or 0) * stream.time_base)
            duration = float(stream.duration * stream.time_base)
        elif self._container.duration is not None and len(self._container.streams) == 1:
            start = (self._container.start_time or 0) / 1e6
            duration = self._container.duration / 1e6
        else:
            return None
        if end - start + max(_CUT, 2 / self.rate) >= duration:
            return None
        return f"is cut off: it ends after {end - start:.1f} s, its header says {duration:.1f} s."


class OpenCvReader(VideoReader):
    """Decodes with OpenCV, which turns frames by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._capture = cv2.VideoCapture(str(path))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        if math.isfinite(rate) and rate > 0:
            self.rate = float(rate)
        width, height = (
            self._capture.get(key) for key in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN)
        )
        self.aspect = width / height if width > 0 and height > 0 else 1.0
        self._said = 0  # broken frames

    def close(self) -> None:
        self._capture.release()

    def _decoded(self) -> Iterator[_Raw]:
        failed = 0
        while failed <= _MOST_BROKEN:
            if not self._capture.grab():  # decodes, but makes no picture of it
                failed += 1
                continue
            for _ in range(failed):
                yield _Raw(None, problem="it cannot be decoded")
            self._said, failed = self._said + failed, 0
            yield _Raw(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, self._picture)

    def _picture(self) -> np.ndarray:
        ok, image = self._capture.retrieve()
        if not ok:
            raise DataError("it cannot be decoded")
        return image

    def _missing(self, frames: int) -> str | None:
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)  # where no file says it, an estimate
        if frames + self._said + 1 >= count:
            return None
        return f"is damaged or cut off: {frames} of {count:.0f} frames could be decoded."


def _picture(frame, matrix: tuple[int, ...] | None) -> np.ndarray:
    image = frame.to_ndarray(format="bgr24")
    return image if matrix is None else upright(image, matrix)


def _display_matrix(frame) -> tuple[int, ...] | None:
    """How a frame is to be turned: phones write it as they were held."""
    data = next((d for d in frame.side_data if d.type.name == _DISPLAY_MATRIX), None)
    if data is None:
        return None
    return tuple(np.frombuffer(bytes(data), dtype=np.int32)[[0, 1, 3, 4]].tolist())


def upright(image: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """Turn and mirror a picture by quarters of a turn, as a display matrix says.

    Args:
        image: (H, W, …).
        matrix: a, b, c, d of any scale: the pixel (x, y) is shown at (a x + c y, b x + d y), where y
            points downwards (ISO/IEC 14496-12, 6.2.2). Angles between are rounded to quarters.

    Returns:
        (H, W, …) or (W, H, …), contiguous.
    """
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        image = image.swapaxes(0, 1)
        a, d = c, b
    if a < 0:
        image = image[:, ::-1]
    if d < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)
