# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ids of objects that stay over the frames of a video: ByteTrack, of the library ``trackers``.

Zhang et al., ByteTrack: Multi-Object Tracking by Associating Every Detection Box, ECCV 2022. Boxes are
matched with where those of the frames before would be by now; sure ones first, then faint ones, which
keep an object's id while it is half hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence

import numpy as np

from ...errors import ConfigError

__all__ = ["FAINT", "Tracks", "check_tracker"]

FAINT = 0.1  # scores from here on keep an id
_MEMORY = 1.0  # seconds for which an object may be out of sight
_LEAST_OVERLAP = 0.1  # IoU
_SURE = 0.5  # between what stands for a faint and a sure box
_INSTANT = 1e-6  # seconds


def check_tracker() -> None:
    """Load the library.

    Raises:
        ConfigError: it is missing or too old.
    """
    try:
        from trackers import ByteTrackTracker
    except ImportError as error:
        raise ConfigError(
            "--track needs the library trackers, and Python 3.10 or newer: "
            f"pip install 'mrcnn_ext[track]' ({error})."
        ) from error
    if "timestamp" not in inspect.signature(ByteTrackTracker.update).parameters:
        raise ConfigError("--track needs trackers 2.6 or newer: pip install 'mrcnn_ext[track]'.")


class Tracks:
    """The objects of one video. Those of different classes are tracked apart."""

    def __init__(self, rate: float, last_id: int = 0) -> None:
        """
        Args:
            rate: frames a second, on the average.
            last_id: no new object gets an id up to this.
        """
        self._rate = rate
        self._of_class: dict[Hashable, object] = {}
        self._ids: dict[tuple, tuple[int, float]] = {}  # (class, the library's id): id, last time
        self._next = last_id + 1

    def update(
        self,
        boxes: np.ndarray,
        sure: np.ndarray,
        classes: Sequence[Hashable],
        time: float,
        known: Sequence[int | None] = (),
    ) -> list[int | None]:
        """Go on by a frame.

        Args:
            boxes: (N, 4) x0, y0, x1, y1.
            sure: (N,) bool: such a box gets an id; the others, which are faint, only keep that of an
                object that has one.
            classes: N names or numbers.
            time: of the frame in seconds; greater than the last one.
            known: ids that the first of the boxes have already, from an earlier call of the program.

        Returns:
            N ids from 1; None of a box without one: it is faint and fits none, or has no area.
        """
        ids: list[int | None] = [None] * len(classes)
        for label in dict.fromkeys([*self._of_class, *classes]):
            chosen = [index for index, other in enumerate(classes) if other == label]
            found = self._matched(label, boxes[chosen], sure[chosen], time)
            for index, number in zip(chosen, found):
                if number >= 0:
                    given = known[index] if index < len(known) else None
                    ids[index] = self._id((label, number), time, given)
        self._forget(time)
        return ids

    def _matched(self, label: Hashable, boxes, sure, time: float) -> np.ndarray:
        """The library's ids (N,), -1 where there is none."""
        tracker = self._of_class.get(label) or self._new(label)
        ids = _update(tracker, boxes, sure, time)
        # It gives an object its id in the second frame only. The same boxes once more make that
        # the first one: each lies exactly where the track does that was just begun with it.
        new = np.flatnonzero((ids < 0) & sure)
        if len(new):
            ids[new] = _update(tracker, boxes[new], sure[new], time + _INSTANT)
        return ids

    def _new(self, label: Hashable):
        from trackers import ByteTrackTracker

        tracker = self._of_class[label] = ByteTrackTracker(
            lost_track_buffer=round(30 * _MEMORY),  # in frames at 30 a second, whatever the rate is
            frame_rate=self._rate,
            track_activation_threshold=_SURE,
            high_conf_det_threshold=_SURE,
            minimum_consecutive_frames=1,
            minimum_iou_threshold=_LEAST_OVERLAP,
        )
        return tracker

    def _id(self, key: tuple, time: float, given: int | None) -> int:
        number = given or self._ids.get(key, (0, 0.0))[0]
        if not number:
            number = self._next
        self._next = max(self._next, number + 1)
        self._ids[key] = number, time
        return number

    def _forget(self, time: float) -> None:
        """What the library has given up does not come back."""
        lost = [key for key, (_, last) in self._ids.items() if time - last > 2 * _MEMORY]
        for key in lost:
            del self._ids[key]


def _update(tracker, boxes: np.ndarray, sure: np.ndarray, time: float) -> np.ndarray:
    from supervision import Detections  # comes with trackers

    order = np.arange(len(boxes))
    detections = Detections(
        xyxy=np.asarray(boxes, dtype=float).reshape(-1, 4),
        confidence=np.where(sure, 1.0, 0.0).reshape(-1),  # it only compares
        data={"order": order},
    )
    tracked = tracker.update(detections, timestamp=time)
    ids = np.full(len(boxes), -1)
    if len(tracked):  # in another order
        ids[tracked.data["order"]] = tracked.tracker_id
    return ids
