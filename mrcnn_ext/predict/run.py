# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predict on images and videos: results go to a writer, pictures to a folder.

Three threads work at once: one decodes, this one runs the model, one draws and writes. A fault of
one image (it cannot be read or drawn, the model fails on it) leaves that image out. What was done
before, by an earlier call, is not done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Instances
from rich.console import Console
from rich.markup import escape

from ..command_line import image_progress, say
from ..data.image_file import ImageReader
from ..errors import DataError
from ..results import Cutouts
from ..stop_signals import StopSignals
from ..visualization.instances import draw_instances
from .ahead import Behind, ahead
from .exported import ExportedPredictor
from .picture_file import WriteError, write_error, write_picture
from .predictor import Predictor
from .reading import Frame, read_frames
from .sources import Source
from .video.clip import TrackOptions
from .video.output import VideoOutput, least_score
from .video.write import h264_problem
from .writer import PredictionWriter

__all__ = ["one_line", "predict_sources"]


def predict_sources(
    predictor: Predictor | ExportedPredictor,
    sources: Sequence[Source],
    writer: PredictionWriter,
    *,
    score_threshold: float | Sequence[float] = 0.5,
    every: int = 1,
    batch_size: int = 1,
    pictures: Path | None = None,
    cutouts: Cutouts | None = None,
    signals: StopSignals | None = None,
    track: TrackOptions | None = None,
) -> int:
    """Predict on all sources that the writer does not have, with a progress bar on stderr.

    Args:
        predictor: the model.
        sources: images and videos. One with any fault is reported and left out.
        writer: gets the instances of each image, from another thread.
        score_threshold: instances that score less are left out; or one for each class.
        every: take every Nth frame of a video.
        batch_size: images that go through the model at once, where as many of one size follow each
            other.
        pictures: the folder to draw into; None draws nothing.
        cutouts: where the cut-outs go; an image whose are missing is read again.
        signals: are looked at between images. What was predicted by then is written.
        track: follow objects over the frames of videos; None does not.

    Returns:
        how many sources have a fault.

    Raises:
        OSError: a prediction or a picture cannot be written.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    faulty: set[str] = set()
    # Of others' predictors, which take BGR
    reader = getattr(predictor, "reader", ImageReader("BGR"))
    threshold = torch.as_tensor(score_threshold)
    output = _Output(VideoOutput(writer, track, threshold), writer, reader, cutouts)
    done_before = writer.results.done if cutouts is None else cutouts.finished(writer.results.done)
    if pictures is not None and any(s.is_video for s in sources) and (why := h264_problem()):
        say(
            f"videos are written by OpenCV as MPEG-4 Part 2, which browsers do not play: {why}",
            error=True,
        )
    floors = threshold, least_score(threshold, track)  # of images and of videos
    with image_progress(console) as progress:
        task = progress.add_task("predicting", total=sum(s.count(every) for s in sources))

        def tell(text: str) -> None:
            if console.is_terminal:  # above the bar
                console.print(text, markup=False)
            else:
                say(text, error=True)

        def done(result: tuple[Frame, str | None]) -> None:
            frame, fault = result
            if fault is not None:
                faulty.add(str(frame.source.path))
                tell(f"left out: {one_line(fault)}")
            # Cut in the middle: the end of a path says more.
            name = escape(one_line(frame.source.name)[-40:])
            advance = 0 if frame.source.is_video and frame.is_last else 1
            progress.update(task, advance=advance, description=f"{name:<40}")

        frames = read_frames(
            sources,
            done_before,
            every=every,
            pictures=pictures,
            reader=reader,
        )
        try:
            with Behind(done) as behind, closing(ahead(frames, _size)) as read:
                for batch in _batches(read, batch_size):
                    for frame, result in zip(batch, _predict(predictor, batch, floors)):
                        behind.submit(output.finish, frame, result, size=frame.size)
                    if signals is not None:
                        signals.check()
        except KeyboardInterrupt:
            if (left := output.interrupt(keep=True)) is not None:
                tell(f"the video so far is in {one_line(left)}")
            raise
        finally:
            output.interrupt(keep=False)
    return len(faulty)


def one_line(text: object) -> str:
    """For messages: without line breaks, and what is no UTF-8 as escapes."""
    return " ".join(str(text).encode("utf-8", "backslashreplace").decode().split())


def _size(frame: Frame) -> int:
    return frame.size


def _batches(frames: Iterable[Frame], batch_size: int) -> Iterator[list[Frame]]:
    """Frames with images of one size together, others by themselves; their order stays."""
    batch: list[Frame] = []
    for frame in frames:
        first, image = batch[0].to_predict if batch else None, frame.to_predict
        fits = first is not None and image is not None and first.shape == image.shape
        if batch and not (fits and len(batch) < batch_size):
            yield batch
            batch = []
        batch.append(frame)
        if len(batch) >= batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _predict(
    predictor: Predictor | ExportedPredictor,
    batch: list[Frame],
    floors: tuple[torch.Tensor, torch.Tensor],
) -> list[Instances | Exception | None]:
    """The instances of each frame, on the CPU; an error of the model; None if there is no image."""
    images = [image for frame in batch if (image := frame.to_predict) is not None]
    if len(images) > 1:
        try:
            outputs = predictor.predict_batch(images)
        except Exception:  # of memory, say: which image is it, and do the others fit by themselves?
            outputs = None
        if outputs is not None:
            return [
                _kept(output["instances"], floors[frame.source.is_video])
                for frame, output in zip(batch, outputs)
            ]
    results: list[Instances | Exception | None] = []
    for frame in batch:
        try:
            image, floor = frame.to_predict, floors[frame.source.is_video]
            results.append(None if image is None else _kept(predictor(image)["instances"], floor))
        except Exception as error:
            results.append(error)
    return results


def _kept(instances: Instances, threshold: torch.Tensor) -> Instances:
    """Those at or above the threshold, or that of their class, on the CPU."""
    limit = threshold.to(instances.scores)
    if limit.dim():
        limit = limit[instances.pred_classes]
    return instances[instances.scores >= limit].to("cpu")


class _Output:
    """Writes the lines, pictures, cut-outs and videos of frames; all in one thread, in their order."""

    def __init__(
        self,
        videos: VideoOutput,
        writer: PredictionWriter,
        reader: ImageReader,
        cutouts: Cutouts | None = None,
    ) -> None:
        self._writer, self._reader, self._videos = writer, reader, videos
        self._cutouts = cutouts
        #: Ends a video that is not at its end: see there.
        self.interrupt = videos.interrupt

    @torch.no_grad()
    def finish(
        self, frame: Frame, result: Instances | Exception | None
    ) -> tuple[Frame, str | None]:
        """Write a frame's results; returns it and why it is left out.

        Raises:
            WriteError: nothing can be written any more.
        """
        fault: Exception | None = frame.fault
        try:
            if isinstance(result, Exception):
                raise result
            if result is not None or self._videos.needs(frame):
                self._write(frame, result)
        except WriteError:
            raise
        except Exception as error:
            fault = error
        if frame.is_last:
            self._videos.end()
        return frame, None if fault is None else _text(frame, fault)

    def _write(self, frame: Frame, instances: Instances | None) -> None:
        if frame.source.is_video or instances is None:
            line = self._videos.line(frame, instances)
            shown = self._videos.shown
        else:
            line = self._writer.line(frame.name, instances, list(frame.stamp))
            shown = partial(_shown, instances)
        picture = None
        if frame.picture is not None:
            picture = _draw(frame, shown(line), self._writer.metadata, self._reader)
        if frame.name not in self._writer.results.done:
            try:
                self._writer.append(line)
            except OSError as error:
                path = self._writer.results.path
                raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error
        if self._cutouts is not None and frame.name not in self._cutouts:
            self._cut_out(frame)
        if picture is None or frame.picture is None:
            return
        if not frame.source.is_video:
            write_picture(frame.picture, picture)
            return
        self._videos.write(frame, picture)

    def _cut_out(self, frame: Frame) -> None:
        assert self._cutouts is not None
        # Of the line that is there: an earlier call may have written it.
        line = self._writer.results.line_of(frame.name)
        try:
            shown = _rgb(frame, self._reader)[:, :, ::-1]
            self._cutouts.write(shown, line, self._writer.predictions)
        except OSError as error:
            raise write_error(self._cutouts.folder / frame.name, error) from error


def _shown(instances: Instances, line: dict) -> Instances:
    """What is to be drawn: with the masks of the line."""
    fields = dict(instances._fields)  # get_fields() would make masks dense
    if "pred_masks" in fields:
        fields["pred_masks"] = [record["segmentation"] for record in line["results"]]
    return Instances(instances.image_size, **fields)


def _draw(frame: Frame, instances: Instances, metadata, reader: ImageReader) -> np.ndarray:
    """The picture, BGR."""
    picture = draw_instances(_rgb(frame, reader), instances, metadata)
    return np.ascontiguousarray(picture[:, :, ::-1])


def _rgb(frame: Frame, reader: ImageReader) -> np.ndarray:
    """What is to be seen of an image: uint8 (H, W, 3)."""
    assert frame.image is not None
    if reader.by_band:
        return reader.shown(frame.image)
    return np.ascontiguousarray(frame.image[:, :, ::-1])


def _text(frame: Frame, fault: Exception) -> str:
    """One line about a fault."""
    if isinstance(fault, DataError):
        return str(fault)
    name = frame.source.path if frame.is_last else frame.name  # else of a video
    return f"{name}: {type(fault).__name__}: {str(fault).strip().partition(chr(10))[0]}"
