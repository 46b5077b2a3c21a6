# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What joins the frames of one video: ids and smoothed keypoints, written into their lines.

Both see only what is in the lines. A call that goes on with a video that is half done gives them the
lines that are there, and they are as if it had not been interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..result_file import ResultFile
from .smooth import BETA, MIN_CUTOFF, KeypointSmoother
from .track import Tracks

__all__ = ["Clip", "TrackOptions", "last_ids"]


@dataclass(frozen=True)
class TrackOptions:
    """How videos are tracked.

    Attributes:
        smooth: smooth keypoints, too.
        min_cutoff: of the One Euro filter, see :class:`~.smooth.KeypointSmoother`.
        beta: likewise.
    """

    smooth: bool = False
    min_cutoff: float = MIN_CUTOFF
    beta: float = BETA


class Clip:
    """The objects of one video, followed frame by frame."""

    def __init__(self, options: TrackOptions, rate: float, last_id: int = 0) -> None:
        """
        Args:
            options: of the run.
            rate: frames that are taken a second, on the average.
            last_id: no new object gets an id up to this.
        """
        self._tracks = Tracks(rate, last_id)
        self._smoother = KeypointSmoother(options.min_cutoff, options.beta)
        self._smooth = options.smooth

    def add(self, line: dict, faint: list[dict]) -> None:
        """Go on by a frame.

        Args:
            line: of the frame, with "time"; its results get a "track_id", and smoothed keypoints.
            faint: records of what scores too little for the results.
        """
        # As they are read again from the file
        line["faint"] = [[r["category_id"], *r["bbox"], r["score"]] for r in faint]
        for record, number in zip(line["results"], self._ids(line)):
            record["track_id"] = number
        if self._smooth:
            line["found_keypoints"] = [record.get("keypoints") for record in line["results"]]
            self._smooth_keypoints(line)

    def recall(self, line: dict) -> None:
        """Go on by a frame whose line was written by an earlier call; the line does not change."""
        self._ids(line, [record.get("track_id") for record in line["results"]])
        if self._smooth:
            copies = [dict(record) for record in line["results"]]
            for record, keypoints in zip(copies, line.get("found_keypoints", ())):
                if keypoints is not None:
                    record["keypoints"] = keypoints
            self._smooth_keypoints({**line, "results": copies})

    def _ids(self, line: dict, known: list[int | None] | None = None) -> list[int | None]:
        found = [[record["category_id"], *record["bbox"]] for record in line["results"]]
        rows = found + line.get("faint", [])
        boxes = np.array([row[1:5] for row in rows], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        sure = np.arange(len(rows)) < len(found)
        labels = [row[0] for row in rows]
        return self._tracks.update(boxes, sure, labels, line["time"], known or ())

    def _smooth_keypoints(self, line: dict) -> None:
        for record in line["results"]:
            if record.get("track_id") is None or not record.get("keypoints"):
                continue
            points = np.array(record["keypoints"], dtype=float).reshape(-1, 3)
            side = float(np.sqrt(record["bbox"][2] * record["bbox"][3]))
            key = record["track_id"], len(points)
            points[:, :2] = self._smoother(key, points[:, :2], side, line["time"])
            record["keypoints"] = points.ravel().tolist()
        self._smoother.forget(line["time"])


def last_ids(results: ResultFile) -> dict[str, int]:
    """The greatest id of each video in the lines, by the name of its source."""
    found: dict[str, int] = {}
    for line in results if results.done else ():
        video = line["file"].rpartition("#")[0]
        for record in line["results"]:
            found[video] = max(found.get(video, 0), record.get("track_id") or 0)
    return found
