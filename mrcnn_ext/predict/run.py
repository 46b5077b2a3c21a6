# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predict on images and videos: results go to a writer, pictures to a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import DataError
from ..visualization.instances import draw_instances
from .predictor import Predictor
from .sources import Source
from .writer import PredictionWriter

__all__ = ["predict_sources"]


def predict_sources(
    predictor: Predictor,
    sources: Sequence[Source],
    writer: PredictionWriter,
    *,
    score_threshold: float = 0.5,
    every: int = 1,
    pictures: Path | None = None,
) -> int:
    """Predict on all sources, with a progress bar on stderr.

    Args:
        predictor: the model.
        sources: images and videos. One that cannot be read is reported and left out.
        writer: gets the instances of each image.
        score_threshold: instances that score less are left out.
        every: take every Nth frame of a video.
        pictures: the folder to draw into; None draws nothing.

    Returns:
        how many sources could not be read.

    Raises:
        OSError: a picture cannot be written.
    """
    run = _Run(predictor, writer, score_threshold, every, pictures)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    skipped = 0
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("predicting", total=sum(s.count(every) for s in sources))
        for source in sources:
            # Cut in the middle: the end of a path says more.
            progress.update(task, description=f"{source.name[-40:]:<40}")
            try:
                for _ in run.video(source) if source.is_video else run.image(source):
                    progress.advance(task)
            except DataError as error:
                skipped += 1
                console.print(f"left out: {error}", markup=False)
    return skipped


@dataclass(frozen=True)
class _Run:
    """What is the same for all sources. Its generators yield once per image, for progress bars."""

    predictor: Predictor
    writer: PredictionWriter
    score_threshold: float
    every: int
    pictures: Path | None

    def image(self, source: Source) -> Iterator[None]:
        try:
            image = read_image(str(source.path), "BGR")  # turned as its EXIF data say
        except Exception as error:  # Pillow raises many kinds
            raise DataError(f"{source.path}: {error}") from error
        instances = self._predict(source.name, image)
        if self.pictures is not None:
            file = self.pictures / source.picture_name()
            file.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(file), self._draw(image, instances)):
                raise OSError(f"{file} cannot be written")
        yield

    def video(self, source: Source) -> Iterator[None]:
        capture = cv2.VideoCapture(str(source.path))
        output, index = None, -1
        try:
            while True:
                index += 1
                # grab() alone skips a frame without decoding it.
                if not capture.grab():
                    break
                if index % self.every:
                    continue
                ok, image = capture.retrieve()
                if not ok:
                    raise DataError(f"{source.path}: frame {index} cannot be decoded.")
                instances = self._predict(f"{source.name}#{index}", image)
                if self.pictures is not None:
                    picture = self._draw(image, instances)
                    if output is None:
                        rate = (capture.get(cv2.CAP_PROP_FPS) or 25.0) / self.every
                        file = self.pictures / source.picture_name()
                        output = _video_writer(file, rate, picture.shape)
                    output.write(picture)
                yield
            if index == 0:
                raise DataError(f"{source.path}: no frame of it can be decoded.")
        finally:
            capture.release()
            if output is not None:
                output.release()

    def _predict(self, name: str, image: np.ndarray) -> Instances:
        instances = self.predictor(image)["instances"].to("cpu")
        instances = instances[instances.scores >= self.score_threshold]
        self.writer.add(name, instances)
        return instances

    def _draw(self, image: np.ndarray, instances: Instances) -> np.ndarray:
        """BGR in, BGR out."""
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        picture = draw_instances(rgb, instances, self.writer.metadata)
        return np.ascontiguousarray(picture[:, :, ::-1])


def _video_writer(file: Path, rate: float, shape: tuple[int, ...]) -> cv2.VideoWriter:
    file.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(file), code, rate, (shape[1], shape[0]))
    if not writer.isOpened():
        raise DataError(
            f"{file} cannot be written: this OpenCV has no mp4 encoder (--no-pictures)."
        )
    return writer
