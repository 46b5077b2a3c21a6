# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What becomes of the frames of videos: their lines, what is drawn, and the files of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from ...skeletons import SkeletonSet
from ..picture_file import WriteError
from ..reading import Frame
from ..writer import PredictionWriter
from .clip import Clip, TrackOptions, last_ids
from .track import FAINT
from .write import VideoFile

__all__ = ["VideoOutput", "least_score"]


def least_score(threshold: torch.Tensor, track: TrackOptions | None) -> torch.Tensor:
    """What the model's instances must score to be handed to :class:`VideoOutput`.

    Args:
        threshold: of all classes, or (classes,).
    """
    return threshold if track is None else threshold.clamp(max=FAINT)


class VideoOutput:
    """Takes the frames of all videos of a run, one video after another."""

    def __init__(
        self,
        writer: PredictionWriter,
        track: TrackOptions | None,
        threshold: float | Sequence[float] = 0.5,
    ) -> None:
        """
        Args:
            writer: of the results.
            track: follow objects over the frames; None does not.
            threshold: score from which on objects that are followed are in the results, or one for
                each class.
        """
        self._writer, self._track = writer, track
        self._threshold = torch.as_tensor(threshold)
        self._skeletons = SkeletonSet.from_metadata(writer.metadata)
        self._last_ids = {} if track is None else last_ids(writer.results)
        self._clip: Clip | None = None
        self._file: VideoFile | None = None

    def needs(self, frame: Frame) -> bool:
        """Whether a frame that is in the results already is of use."""
        return frame.known and (frame.image is not None or self._track is not None)

    def line(self, frame: Frame, instances: Instances | None) -> dict:
        """The line of a frame, with ids and smoothed keypoints if objects are followed.

        Args:
            frame: frames of a video come in their order.
            instances: None if the line is there already.
        """
        if self._track is not None and self._clip is None:
            last = self._last_ids.get(frame.source.name, 0)
            self._clip = Clip(self._track, frame.rate, last)
        if instances is None:
            line = self._writer.results.line_of(frame.name)
            if self._clip is not None:
                self._clip.recall(line)
            return line
        shown, faint = instances, []
        if self._track is not None:
            limits = self._threshold
            if limits.ndim:
                limits = limits[instances.pred_classes]
            sure = instances.scores >= limits
            shown = instances[sure]
            faint = self._writer.line(frame.name, _boxes(instances[~sure]))["results"]
        line = self._writer.line(frame.name, shown, list(frame.stamp))
        line = {**line, "time": frame.time, "results": line["results"]}
        if self._clip is not None:
            self._clip.add(line, faint)
        return line

    def shown(self, line: dict) -> Instances:
        """What is to be drawn of a line: masks as RLE, and "track_ids" where there are ids."""
        records = line["results"]
        boxes = torch.tensor([r["bbox"] for r in records], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = [int(self._writer.class_id(r["category_id"])) for r in records]
        fields: dict = {
            "pred_boxes": Boxes(boxes.float()),
            "scores": torch.tensor([r["score"] for r in records], dtype=torch.float32),
            "pred_classes": torch.tensor(classes, dtype=torch.int64),
        }
        if records and all("segmentation" in r for r in records):
            fields["pred_masks"] = [r["segmentation"] for r in records]
        if any("keypoints" in r for r in records):
            fields["pred_keypoints"] = self._keypoints(records, classes)
        if self._track is not None:
            fields["track_ids"] = [r.get("track_id") for r in records]
        return Instances((line["height"], line["width"]), **fields)

    def _keypoints(self, records: list[dict], classes: list[int]) -> torch.Tensor:
        """(N, K, 3) in the model's layout: those of other classes score 0."""
        own = [np.reshape(r.get("keypoints", ()), (-1, 3)) for r in records]
        number = max(map(len, own))
        skeletons = self._skeletons
        if skeletons is not None and skeletons.class_skeletons:
            number = skeletons.num_keypoints
        keypoints = np.zeros((len(own), number, 3))
        for row, points, class_id in zip(keypoints, own, classes):
            slots = range(len(points))
            if len(points) < number and skeletons is not None:
                slots = skeletons.slots(class_id)
            row[slots] = points + (0.5, 0.5, 0)  # COCO's whole numbers are centres of pixels
        return torch.from_numpy(keypoints).float()

    def write(self, frame: Frame, picture: np.ndarray) -> None:
        """Add a drawn frame, BGR, to its video.

        Raises:
            DataError, WriteError: as :class:`VideoFile`.
        """
        assert frame.picture is not None
        assert frame.time is not None
        if self._file is None:
            file, shape = frame.picture, picture.shape
            self._file = VideoFile(file, frame.rate, shape, aspect=frame.aspect)
        self._file.write(picture, frame.time)

    def end(self) -> None:
        """The video is at its end.

        Raises:
            WriteError: its file cannot be put in its place.
        """
        file, self._file, self._clip = self._file, None, None
        if file is not None:
            file.close()

    def interrupt(self, keep: bool) -> Path | None:
        """The run ends within a video.

        Args:
            keep: put what there is of its file beside its place, where it can be played. The next
                call, which draws the whole, goes by the file that is not there.

        Returns:
            where it is; None if there is nothing.
        """
        file, self._file, self._clip = self._file, None, None
        if file is None:
            return None
        if keep:
            with suppress(WriteError):
                return file.leave()
        file.discard()
        return None


def _boxes(instances: Instances) -> Instances:
    """Without what costs time to write."""
    kept = ("pred_boxes", "scores", "pred_classes")
    return Instances(instances.image_size, **{name: instances.get(name) for name in kept})
