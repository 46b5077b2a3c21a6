# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Files that browsers play, with the right times; whole or not at all."""

from __future__ import annotations

import os
import resource

import cv2
import numpy as np
import pytest

from mrcnn_ext.predict.picture_file import WriteError
from mrcnn_ext.predict.video.write import VideoFile, h264_problem, unfinished
from tests.predict.conftest import noise
from tests.predict.video.clips import count, number_of, numbered, read_times

TIMES = [0, 1 / 30, 2 / 30, 0.4, 0.5, 1.5]


def _write(file, times, shape=(64, 96), **options) -> VideoFile:
    video = VideoFile(file, 10.0, shape, **options)
    for index, time in enumerate(times):
        video.write(numbered(index, *shape), time)
    return video


def test_h264_with_its_index_in_front_and_exact_times(tmp_path):
    av = pytest.importorskip("av")
    assert h264_problem() is None
    file = tmp_path / "more" / "a.mp4"
    _write(file, TIMES, aspect=4 / 3).close()
    data = file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(file)) as opened:
        stream = opened.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "High")
        assert float(stream.sample_aspect_ratio) == pytest.approx(4 / 3, rel=0.01)
        # The last frame is shown as long as one is on the average.
        assert float(stream.duration * stream.time_base) == pytest.approx(1.6, abs=1e-4)
        frames = list(opened.decode(stream))
    assert [float(frame.time) for frame in frames] == pytest.approx(TIMES, abs=1e-4)
    shown = [frame.to_ndarray(format="bgr24") for frame in frames]
    assert [number_of(image) for image in shown] == list(range(6))
    if int(av.__version__.partition(".")[0]) >= 17:  # older ones read all colours as BT.601
        for place in ((8, 12), (-8, 12), (8, -12), (50, 60)):
            assert np.abs(shown[0][place].astype(int) - numbered(0)[place]).max() < 12
    assert sorted(path.name for path in file.parent.iterdir()) == ["a.mp4"]


@pytest.mark.parametrize("shape", [(63, 95), (64, 95), (1, 1)])
def test_odd_sizes_are_padded(tmp_path, shape):
    pytest.importorskip("av")
    video = VideoFile(tmp_path / "a.mp4", 10.0, shape)
    video.write(noise(0, *shape), 0.0)
    video.write(noise(1, 10, 20), 0.1)  # of another size: scaled, not dropped
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    size = (capture.get(key) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    assert tuple(size) == tuple(side + side % 2 for side in shape)
    assert count(tmp_path / "a.mp4") == 2


def test_opencv_repeats_and_drops_frames_so_that_times_are_right(tmp_path, without_pyav):
    assert "pip install 'mrcnn_ext[video]'" in h264_problem()
    file = tmp_path / "a.mp4"
    _write(file, TIMES).close()
    capture, shown = cv2.VideoCapture(str(file)), []
    while (read := capture.read())[0]:
        shown.append(number_of(read[1]))
    # At 10 frames a second: 0 is replaced by 1, and 2 (0.07 s) begins the second tenth.
    assert shown == [1, 2, 2, 2, 3] + [4] * 10 + [5]
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)


@pytest.mark.parametrize("pyav", [True, False])
def test_what_is_not_whole_never_has_its_name(tmp_path, request, pyav):
    if pyav:
        pytest.importorskip("av")
    else:
        request.getfixturevalue("without_pyav")
    file = tmp_path / "a.mp4"
    video = _write(file, TIMES)
    left = video.leave()
    assert left == unfinished(file) == tmp_path / "a.unfinished.mp4"
    assert count(left) >= 6
    assert [path.name for path in tmp_path.iterdir()] == ["a.unfinished.mp4"]
    _write(file, TIMES).close()  # makes the other one needless
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    before = file.read_bytes()
    _write(file, TIMES[:2]).discard()
    video = _write(file, TIMES)
    video._encoder.end()
    os.truncate(video._temporary, 100)  # as a limit on the size of files leaves it
    with pytest.raises(WriteError, match=r"a.mp4 cannot be written: it did not become whole"):
        video.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert file.read_bytes() == before


def _fill(video) -> None:
    for index in range(200):
        video.write(noise(index), index / 10)


def test_a_limit_on_files_is_an_error(tmp_path):
    pytest.importorskip("av")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    try:
        video = VideoFile(tmp_path / "a.mp4", 10.0, (80, 120))
        with pytest.raises(WriteError, match=r"a.mp4 cannot be written: File too large"):
            _fill(video)
        video.discard()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_one_time_stay_apart(tmp_path):
    pytest.importorskip("av")
    _write(tmp_path / "a.mp4", [0.0, 0.0, 0.1]).close()
    times = read_times(tmp_path / "a.mp4")
    assert len(times) == 3
    assert times == sorted(set(times))
