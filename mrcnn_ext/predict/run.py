# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predict on images and videos: results go to a writer, pictures to a folder.

A fault of one image (it cannot be read or drawn, the model fails on it) leaves that image out. What
was done before, by an earlier call, is not done again.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances
from rich.console import Console
from rich.markup import escape

from ..command_line import image_progress
from ..data.pictures import picture_problem
from ..errors import DataError
from ..files import replaced_file
from ..visualization.instances import draw_instances
from .exported import ExportedPredictor
from .predictor import Predictor
from .signals import StopSignals
from .sources import Source
from .writer import PredictionWriter

__all__ = ["one_line", "predict_sources"]

# Errors of one name, not of the disk
_OF_A_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ)
_LEAST_ROOM = 1 << 16  # bytes; OpenCV does not say that a video could not be written


def predict_sources(
    predictor: Predictor | ExportedPredictor,
    sources: Sequence[Source],
    writer: PredictionWriter,
    *,
    score_threshold: float = 0.5,
    every: int = 1,
    pictures: Path | None = None,
    signals: StopSignals | None = None,
) -> int:
    """Predict on all sources that the writer does not have, with a progress bar on stderr.

    Args:
        predictor: the model.
        sources: images and videos. One with any fault is reported and left out.
        writer: gets the instances of each image.
        score_threshold: instances that score less are left out.
        every: take every Nth frame of a video.
        pictures: the folder to draw into; None draws nothing.
        signals: lines are written without being interrupted by these.

    Returns:
        how many sources have a fault.

    Raises:
        OSError: a prediction or a picture cannot be written.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    run = _Run(predictor, writer, score_threshold, every, pictures, signals, console)
    skipped = 0
    with image_progress(console) as progress:
        task = progress.add_task("predicting", total=sum(s.count(every) for s in sources))
        for source in sources:
            # Cut in the middle: the end of a path says more.
            name = escape(one_line(source.name)[-40:])
            progress.update(task, description=f"{name:<40}")
            faults = 0
            for fault in run.source(source):
                progress.advance(task)
                if fault:
                    faults += 1
                    console.print(f"left out: {one_line(fault)}", markup=False)
                if signals is not None:
                    signals.check()
            skipped += faults > 0
    return skipped


def one_line(text: object) -> str:
    """For messages: without line breaks, and what is no UTF-8 as escapes."""
    return " ".join(str(text).encode("utf-8", "backslashreplace").decode().split())


class _WriteError(OSError):
    """Of the disk: there is no sense in going on."""


@dataclass(frozen=True)
class _Run:
    """What is the same for all sources. Its generators yield once per image: None, or its fault."""

    predictor: Predictor | ExportedPredictor
    writer: PredictionWriter
    score_threshold: float
    every: int
    pictures: Path | None
    signals: StopSignals | None
    console: Console

    def source(self, source: Source) -> Iterator[str | None]:
        problem = source.name_problem()
        if problem is not None:
            yield f"{source.path}: {problem}."
            return
        try:
            yield from self._video(source) if source.is_video else self._image(source)
        except Exception as error:
            yield self._fault(str(source.path), error)

    def _fault(self, name: str, error: Exception) -> str:
        """One line about an error; raises it again if it is not of one image."""
        if isinstance(error, _WriteError):
            raise error
        if isinstance(error, DataError):
            return str(error)
        text = str(error).strip().partition("\n")[0]
        return f"{name}: {type(error).__name__}: {text}"

    def _image(self, source: Source) -> Iterator[None]:
        file = None if self.pictures is None else self.pictures / source.picture_name()
        done = source.name in self.writer.results.done
        if done and (file is None or file.exists()):
            yield
            return
        problem = picture_problem(source.path)
        if problem is not None:
            raise DataError(f"{source.path}: {problem}.")
        stamp = source.stamp()
        try:
            image = read_image(str(source.path), "BGR")  # turned as its EXIF data say
        except Exception as error:  # Pillow raises many kinds
            raise DataError(f"{source.path}: {error}") from error
        line, picture = self._predict(source.name, image, stamp)
        if not done:
            self._append(line)
        if file is not None and picture is not None:
            _write_picture(file, picture)
        yield

    def _video(self, source: Source) -> Iterator[str | None]:
        stamp = source.stamp()
        output, index = None, -1
        file = None if self.pictures is None else self.pictures / source.picture_name()
        if file is not None and file.exists() and self._is_complete(source):
            file = None
        capture = cv2.VideoCapture(str(source.path))
        try:
            while True:
                index += 1
                # grab() alone skips a frame without decoding it.
                if not capture.grab():
                    break
                name = f"{source.name}#{index}"
                done = name in self.writer.results.done
                if index % self.every:
                    continue
                if done and file is None:
                    yield None
                    continue
                ok, image = capture.retrieve()
                if not ok:
                    raise DataError(f"{source.path}: frame {index} cannot be decoded.")
                try:
                    line, picture = self._predict(name, image, stamp, file is not None)
                except Exception as error:
                    yield self._fault(name, error)
                    continue
                if not done:
                    self._append(line)
                if picture is not None and file is not None:
                    if output is None:
                        rate = (capture.get(cv2.CAP_PROP_FPS) or 25.0) / self.every
                        output = _Video(file, rate, picture.shape)
                    output.write(picture)
                yield None
            if index == 0:
                raise DataError(f"{source.path}: no frame of it can be decoded.")
        finally:
            capture.release()
            if output is not None:
                output.close()

    def _is_complete(self, source: Source) -> bool:
        """Whether a video was done, to its end, by an earlier call."""
        done = self.writer.results.done
        capture, index = cv2.VideoCapture(str(source.path)), 0
        try:
            while capture.grab():
                if index % self.every == 0 and f"{source.name}#{index}" not in done:
                    return False
                index += 1
        finally:
            capture.release()
        return True

    def _predict(
        self, name: str, image: np.ndarray, stamp: list[int], draw: bool = True
    ) -> tuple[dict, np.ndarray | None]:
        """The line of an image and its picture, BGR; nothing is written."""
        instances = self.predictor(image)["instances"].to("cpu")
        instances = instances[instances.scores >= self.score_threshold]
        line = self.writer.line(name, instances, stamp)
        if self.pictures is None or not draw:
            return line, None
        fields = dict(instances._fields)  # get_fields() would make masks dense
        if "pred_masks" in fields:
            fields["pred_masks"] = [record["segmentation"] for record in line["results"]]
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        shown = Instances(instances.image_size, **fields)
        picture = draw_instances(rgb, shown, self.writer.metadata)
        return line, np.ascontiguousarray(picture[:, :, ::-1])

    def _append(self, line: dict) -> None:
        try:
            with self.signals.held() if self.signals is not None else nullcontext():
                self.writer.append(line)
        except OSError as error:
            raise _WriteError(
                f"{self.writer.results.path} cannot be written: {error.strerror or error}"
            ) from error


def _write_picture(file: Path, picture: np.ndarray) -> None:
    _, encoded = cv2.imencode(".png", picture)
    try:
        with replaced_file(file) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError as error:
        message = f"{file} cannot be written: {error.strerror or error}"
        raise (DataError if error.errno in _OF_A_NAME else _WriteError)(message) from error


class _Video:
    """A video file that is replaced by a new one."""

    def __init__(self, file: Path, rate: float, shape: tuple[int, ...]) -> None:
        self._file = file
        self._temporary = file.with_name(f".{file.stem[:40]}.part.mp4")  # OpenCV goes by the suffix
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _WriteError(f"{file} cannot be written: {error.strerror}") from error
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._temporary), code, rate, (shape[1], shape[0]))
        if not self._writer.isOpened():
            raise DataError(
                f"{file} cannot be written: this OpenCV has no mp4 encoder (--no-pictures)."
            )

    def write(self, picture: np.ndarray) -> None:
        self._writer.write(picture)

    def close(self) -> None:
        self._writer.release()
        if shutil.disk_usage(self._file.parent).free < _LEAST_ROOM:
            self._temporary.unlink(missing_ok=True)
            raise _WriteError(f"{self._file} cannot be written: {os.strerror(errno.ENOSPC)}")
        os.replace(self._temporary, self._file)
