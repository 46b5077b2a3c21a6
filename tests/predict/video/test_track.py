# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ids that stay: scripted detections."""

from __future__ import annotations

import numpy as np
import pytest

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.predict.video.track import Tracks, check_tracker

pytest.importorskip("trackers")

RATE = 25.0


def _box(x: float, y: float = 50.0, wide: float = 40.0, high: float = 80.0) -> list[float]:
    return [x, y, x + wide, y + high]


def _follow(frames, times=None, **options) -> list[list[int | None]]:
    """``frames``: for each a list of (box, score, class)."""
    tracks = Tracks(RATE, **options)
    found = []
    for index, frame in enumerate(frames):
        boxes = np.array([box for box, _, _ in frame], dtype=float).reshape(-1, 4)
        sure = np.array([score >= 0.5 for _, score, _ in frame], dtype=bool)
        labels = [label for _, _, label in frame]
        time = index / RATE if times is None else times[index]
        found.append(tracks.update(boxes, sure, labels, time))
    return found


def test_ids_begin_with_the_first_frame_and_stay_through_an_occlusion():
    frames = [[(_box(3 * i), 0.9, 0), (_box(300), 0.8, 0)] for i in range(40)]
    for index in range(15, 28):  # half a second out of sight, while it moves on
        del frames[index][0]
    ids = _follow(frames)
    assert ids[0] == [1, 2]
    assert all(found == ([1, 2] if len(found) == 2 else [2]) for found in ids)
    assert [len(found) for found in ids].count(1) == 13


def test_after_a_long_time_it_is_another_object():
    frames = [[(_box(100), 0.9, 0)]] * 5 + [[]] * 30 + [[(_box(100), 0.9, 0)]] * 3
    ids = [found[0] for found in _follow(frames) if found]
    assert ids == [1] * 5 + [2] * 3


@pytest.mark.parametrize("hidden", [0, 4])
def test_two_that_cross_keep_their_ids(hidden):
    frames = []
    for i in range(60):
        left, right = _box(8 * i, 50, 40, 80), _box(480 - 8 * i, 58, 44, 90)
        frame = [(left, 0.9, "a"), (right, 0.95, "a")]
        if abs(i - 30) < hidden:  # the one behind is not found
            frame = frame[1:]
        frames.append(frame if i % 2 else frame[::-1])  # in any order
    for index, found in enumerate(_follow(frames)):
        boxes = [box for box, _, _ in frames[index]]
        first = {tuple(frames[0][k][0]): k for k in range(2)}
        assert len(first) == 2
        by_size = {round(box[2] - box[0]): number for box, number in zip(boxes, found)}
        assert by_size[44] == 1
        assert by_size.get(40, 2) == 2


def test_faint_boxes_keep_an_id_but_get_none():
    frames = [[(_box(10 + 2 * i), 0.9 if i < 5 or i > 60 else 0.3, 0)] for i in range(70)]
    ids = [found[0] for found in _follow(frames)]
    assert ids == [1] * 70  # longer than it might have been out of sight
    assert _follow([[(_box(10), 0.3, 0)]] * 3) == [[None]] * 3


def test_classes_are_apart_and_numbers_are_not_used_twice():
    frames = [[(_box(50), 0.9, "dog"), (_box(52), 0.9, "cat"), (_box(0, 0), 0.9, "dog")]] * 4
    assert _follow(frames) == [[1, 3, 2]] * 4 or _follow(frames) == [[1, 2, 3]] * 4
    flipped = [[(_box(50), 0.9, "dog")]] * 3 + [[(_box(50), 0.9, "cat")]] * 3
    assert _follow(flipped) == [[1]] * 3 + [[2]] * 3
    assert _follow([[(_box(50), 0.9, 0)]], last_id=7) == [[8]]


def test_times_count_not_frames():
    times = np.cumsum([0.04] * 10 + [0.4] + [0.04] * 5)
    speed = 100.0  # pixels a second
    frames = [[(_box(speed * time), 0.9, 0)] for time in times]
    assert _follow(frames, times) == [[1]] * 16
    times[10:] += 1.0  # more than a second without a frame
    assert [found[0] for found in _follow(frames, times)] == [1] * 10 + [2] * 6


def test_a_box_without_area_has_no_id():
    assert _follow([[([5, 5, 5, 5], 0.9, 0), (_box(50), 0.9, 0)]] * 2)[1][1] == 1


def test_known_ids_are_taken_up():
    tracks = Tracks(RATE, last_id=20)
    boxes, sure = np.array([_box(0), _box(200)]), np.ones(2, dtype=bool)
    assert tracks.update(boxes, sure, [0, 0], 0.0, [12, 9]) == [12, 9]
    more = np.array([_box(201), _box(1), _box(400)])
    assert tracks.update(more, np.ones(3, dtype=bool), [0] * 3, 0.04) == [9, 12, 21]


def test_nothing_is_kept_of_what_is_gone():
    tracks = Tracks(RATE)
    for index in range(300):
        box = np.array([_box(997.0 * (index // 3 % 5), 499.0 * (index // 3 % 7))])
        tracks.update(box, np.ones(1, dtype=bool), [0], index / 2)
    assert len(tracks._ids) < 10


def test_an_old_or_missing_library_is_said(monkeypatch):
    check_tracker()
    import trackers

    class Old:
        def update(self, detections): ...

    monkeypatch.setattr(trackers, "ByteTrackTracker", Old)
    with pytest.raises(ConfigError, match=r"trackers 2.6 or newer"):
        check_tracker()
    monkeypatch.delattr(trackers, "ByteTrackTracker")
    with pytest.raises(ConfigError, match=r"pip install 'mrcnn_ext\[track\]'"):
        check_tracker()
