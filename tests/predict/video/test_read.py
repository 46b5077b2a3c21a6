# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Frames of videos: times, rotation, and what is broken."""

from __future__ import annotations

import numpy as np
import pytest

from mrcnn_ext.errors import DataError
from mrcnn_ext.predict.video.read import _Clock, open_video, upright
from tests.predict.conftest import write_clip
from tests.predict.video.clips import (
    number_of,
    numbered,
    overwrite,
    packets,
    set_matrix,
    write_h264,
)

TIMES = [0, 0.04, 0.08, 0.3, 0.34, 0.9, 1.0, 1.01]


def _read(file, wanted=lambda _: True):
    with open_video(file) as video:
        return list(video.frames(wanted))


def _check(frames, times, tolerance=1e-5) -> None:
    assert [frame.problem for frame in frames] == [None] * len(times)
    assert [frame.position for frame in frames] == list(range(len(times)))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=tolerance)
    assert [number_of(frame.image) for frame in frames] == list(range(len(times)))


def test_times_are_those_of_the_file(tmp_path):
    pytest.importorskip("av")
    write_h264(tmp_path / "a.mp4", [5 + time for time in TIMES])
    _check(_read(tmp_path / "a.mp4"), TIMES)
    some = _read(tmp_path / "a.mp4", lambda index: index == 3)
    assert [frame.position for frame in some if frame.image is not None] == [3]
    with open_video(tmp_path / "a.mp4") as video:
        assert video.rate == pytest.approx(len(TIMES) / (TIMES[-1] + 0.04), rel=0.1)


def test_opencv_reads_times_too(tmp_path, without_pyav):
    pytest.importorskip("av")
    write_h264(tmp_path / "a.mp4", TIMES)
    _check(_read(tmp_path / "a.mp4"), TIMES, 1e-3)


def test_clocks_that_jump_go_on():
    clock = _Clock(0.5)
    stamps = [None, 7.0, 7.5, 9.0, 2.0, 2.5, 9000.0, 9001.0, None, 9002.0]
    expected = [0.0, 0.5, 1.0, 2.5, 3.0, 3.5, 4.0, 5.0, 5.5, 6.0]
    assert [clock.time(stamp) for stamp in stamps] == pytest.approx(expected)


@pytest.mark.parametrize(
    "matrix",
    [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
    + [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
)
def test_frames_are_turned_and_mirrored_as_the_display_matrix_says(tmp_path, matrix):
    a, b, c, d = matrix
    image = np.arange(3 * 5).reshape(3, 5)
    shown = {(a * x + c * y, b * x + d * y): image[y, x] for x in range(5) for y in range(3)}
    left, top = min(x for x, _ in shown), min(y for _, y in shown)
    expected = np.zeros((3, 5) if a else (5, 3), dtype=int)
    for (x, y), value in shown.items():
        expected[y - top, x - left] = value
    assert np.array_equal(upright(image, (a << 16, b << 16, c << 16, d << 16)), expected)

    pytest.importorskip("av")
    write_h264(tmp_path / "a.mp4", [0, 0.04])
    set_matrix(tmp_path / "a.mp4", *matrix)
    got = _read(tmp_path / "a.mp4")[1].image
    assert np.abs(got.astype(int) - upright(numbered(1), matrix)).mean() < 8


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_opencv_turns_them_too(tmp_path, without_pyav, matrix):
    pytest.importorskip("av")
    write_h264(tmp_path / "a.mp4", [0, 0.04])
    set_matrix(tmp_path / "a.mp4", *matrix)
    got = _read(tmp_path / "a.mp4")[1].image
    assert np.abs(got.astype(int) - upright(numbered(1), matrix)).mean() < 8


def test_broken_frames_are_named_and_passed_over(tmp_path):
    pytest.importorskip("av")
    file = tmp_path / "a.mp4"
    write_h264(file, np.arange(30) / 25, options={"g": "5", "bf": "2"})
    at = {round(time * 25): (place, size) for place, size, time in packets(file)}
    start = min(at)
    for index in (8, 13, 14):  # within groups of frames that end at 9 and 14
        overwrite(file, *at[start + index])
    frames = _read(file)
    assert [f.problem.partition(" (")[0] for f in frames if f.problem] == [
        "frame 8 is broken",
        "frames 13 to 14 are broken",
    ]
    for frame in frames:
        if frame.problem is None:
            assert frame.time == pytest.approx(frame.position / 25, abs=1e-4)
    kept = [frame.position for frame in frames if frame.problem is None]
    assert kept == [index for index in range(30) if index not in (8, 13, 14)]
    # Those that are made from a broken one may show its remains.
    sure = [frame for frame in frames if frame.problem is None and not 5 <= frame.position < 15]
    assert [number_of(frame.image) for frame in sure] == [frame.position for frame in sure]


def test_of_many_broken_places_a_few_are_named(tmp_path):
    pytest.importorskip("av")
    file = tmp_path / "a.mp4"
    write_h264(file, np.arange(30) / 25, options={"g": "1"})
    for place, size, _ in packets(file)[1::2]:
        overwrite(file, place, size)
    problems = [frame.problem for frame in _read(file) if frame.problem]
    assert len(problems) == 6
    assert problems[-1] == "10 more frames are broken."


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cut_off_video_gives_what_is_there(tmp_path, suffix):
    pytest.importorskip("av")
    file = tmp_path / f"a.{suffix}"
    container = {"movflags": "+faststart"} if suffix == "mp4" else {}
    write_h264(file, np.arange(50) / 25, options={"g": "5"}, container=container)
    whole = _read(file)
    assert all(frame.problem is None for frame in whole)
    place = packets(file)[25][0]
    with open(file, "r+b") as opened:
        opened.truncate(place)
    frames = _read(file)
    assert 20 <= sum(frame.problem is None for frame in frames) <= 26
    assert "is cut off: it ends after 1.0 s, its header says 2.0 s" in frames[-1].problem


def test_what_is_no_video_is_an_error(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing of a video")
    with pytest.raises(DataError, match=r"a.mp4: no frame of it can be decoded"):
        _read(tmp_path / "a.mp4")


def test_opencv_tells_what_it_passed_over(tmp_path, without_pyav):
    pytest.importorskip("av")
    file = tmp_path / "a.mp4"
    write_h264(file, np.arange(20) / 25, options={"g": "1"})
    assert all(frame.problem is None for frame in _read(file))
    places = packets(file)
    for place, size, _ in places[4:8]:
        overwrite(file, place, size)
    problems = [frame.problem for frame in _read(file) if frame.problem]
    assert len(problems) == 1
    assert problems[0].startswith(("frames 4 to 7 are broken", "is damaged or cut off: 16 of 20"))
    write_h264(file, np.arange(20) / 25, options={"g": "1"}, container={"movflags": "+faststart"})
    with open(file, "r+b") as opened:
        opened.truncate(packets(file)[12][0])
    frames = _read(file)
    assert frames[-1].problem == "is damaged or cut off: 12 of 20 frames could be decoded."
    assert len(frames) == 13


def test_opencv_needs_no_pyav(tmp_path, without_pyav):
    write_clip(tmp_path / "a.mp4", 5)
    frames = _read(tmp_path / "a.mp4")
    assert [frame.time for frame in frames] == pytest.approx(np.arange(5) / 10, abs=1e-3)
