# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Videos through python -m mrcnn_ext.predict, with a model that finds what is scripted."""

from __future__ import annotations

import json
import resource
import signal
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from detectron2.data import Metadata

from mrcnn_ext.predict import PredictionWriter, find_sources
from mrcnn_ext.predict.__main__ import main
from mrcnn_ext.predict.reading import Frame
from mrcnn_ext.predict.run import predict_sources
from mrcnn_ext.predict.sources import Source
from mrcnn_ext.predict.video.clip import TrackOptions
from mrcnn_ext.predict.video.output import VideoOutput
from mrcnn_ext.visualization.colors import instance_color
from tests.predict.conftest import write_clip
from tests.predict.video.clips import (
    count,
    instances,
    number_of,
    overwrite,
    packets,
    read_times,
    write_h264,
)

KEYPOINTS = 3


def _found(image):
    """One object that moves, a faint one that is not shown, and from frame 5 a third."""
    index = number_of(image)
    rng = np.random.default_rng(index)
    boxes = [[2 * index, 4, 2 * index + 30, 50], [60, 30, 90, 60], [50, 2, 80, 28]]
    number = 3 if index >= 5 else 2
    points = rng.uniform(0, 1, (number, KEYPOINTS, 3)) + (20 + index, 30, 0)
    scores = [0.9, 0.3, 0.8]
    return instances(image.shape, boxes[:number], scores[:number], [0] * number, points)


class _Model:
    device = "cpu"

    def __init__(self, stop_at: int = -1, fail_at: int = -1) -> None:
        self.calls: list[int] = []
        self._stop_at, self._fail_at = stop_at, fail_at

    def __call__(self, image) -> dict:
        index = number_of(image)
        self.calls.append(index)
        if index == self._stop_at:
            raise KeyboardInterrupt
        if index == self._fail_at:
            raise MemoryError("of the model")
        return {"instances": _found(image)}


def _run(model, file, out, **options) -> int:
    metadata = Metadata(thing_classes=["person"])
    writer = PredictionWriter(out, metadata, resume=True)
    try:
        return predict_sources(
            model, find_sources([str(file)]), writer, pictures=out / "pictures", **options
        )
    finally:
        writer.close()


def _lines(out) -> list[dict]:
    lines = [json.loads(line) for line in (out / "coco_results.jsonl").read_text().splitlines()]
    return sorted(lines, key=lambda line: int(line["file"].rpartition("#")[2]))


TRACK = TrackOptions(smooth=True)


def test_frames_in_batches_give_the_same(tmp_path):
    pytest.importorskip("trackers")
    pytest.importorskip("av")
    write_h264(tmp_path / "clip.mp4", np.arange(10) / 25)
    batches = []

    class Batched(_Model):
        def predict_batch(self, images):
            batches.append(len(images))
            return [self(image) for image in images]

    for name, size in (("one", 1), ("four", 4)):
        model = Batched()
        assert (
            _run(model, tmp_path / "clip.mp4", tmp_path / name, track=TRACK, batch_size=size) == 0
        )
    assert batches == [4, 4, 2]
    assert _lines(tmp_path / "one") == _lines(tmp_path / "four")


@pytest.mark.parametrize("every", [1, 3])
def test_times_of_the_frames_stay(tmp_path, every):
    pytest.importorskip("av")
    times = np.cumsum([0.0] + [0.04] * 6 + [0.2] * 6)
    write_h264(tmp_path / "clip.mp4", times)
    assert _run(_Model(), tmp_path / "clip.mp4", tmp_path / "out", every=every) == 0
    drawn = tmp_path / "out" / "pictures" / "clip.mp4"
    assert read_times(drawn) == pytest.approx(times[::every], abs=1e-4)
    assert [line["time"] for line in _lines(tmp_path / "out")] == pytest.approx(times[::every])
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["images"][1]["time"] == pytest.approx(times[every])
    assert "track_id" not in content["images"][1]["instances"][0]


def test_ids_are_in_the_json_and_in_the_picture(tmp_path):
    pytest.importorskip("trackers")
    pytest.importorskip("av")
    write_h264(tmp_path / "clip.mp4", np.arange(12) / 25)
    out = tmp_path / "out"
    assert _run(_Model(), tmp_path / "clip.mp4", out, track=TrackOptions()) == 0
    ids = [[record["track_id"] for record in line["results"]] for line in _lines(out)]
    assert ids == [[1]] * 5 + [[1, 2]] * 7
    images = json.loads((out / "predictions.json").read_text())["images"]
    assert [[i["track_id"] for i in image["instances"]] for image in images] == ids
    results = json.loads((out / "coco_results.json").read_text())
    assert {record["track_id"] for record in results} == {1, 2}
    assert all(record["score"] >= 0.5 for record in results)
    color = 255 * instance_color(1)
    for picture in _pictures(out / "pictures" / "clip.mp4"):
        near = np.abs(picture[..., ::-1].astype(float) - color).max(axis=2) < 80
        assert near.sum() > 150  # the first object's box


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, capsys):
    pytest.importorskip("trackers")
    pytest.importorskip("av")
    file = tmp_path / "clip.mp4"
    write_h264(file, np.arange(14) / 25)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _run(_Model(), file, whole, track=TRACK) == 0
    for stop_at in (3, 9):
        model = _Model(stop_at)
        with pytest.raises(KeyboardInterrupt):
            _run(model, file, parts, track=TRACK)
        left = parts / "pictures" / "clip.unfinished.mp4"
        assert f"the video so far is in {left}" in capsys.readouterr().err
        assert [path.name for path in left.parent.iterdir()] == [left.name]
        assert count(left) == stop_at
        assert len(json.loads((parts / "predictions.json").read_text())["images"]) == stop_at
    model = _Model()
    assert _run(model, file, parts, track=TRACK) == 0
    assert model.calls == list(range(9, 14))  # what is done is drawn from its lines
    assert _lines(parts) == _lines(whole)
    assert (parts / "coco_results.json").read_text() == (whole / "coco_results.json").read_text()
    pictures = [path / "pictures" / "clip.mp4" for path in (parts, whole)]
    assert [path.name for path in pictures[0].parent.iterdir()] == ["clip.mp4"]
    assert read_times(pictures[0]) == read_times(pictures[1])
    for a, b in zip(*(_pictures(path) for path in pictures)):
        assert np.abs(a.astype(int) - b).mean() < 1
    again = _Model()
    assert _run(again, file, parts, track=TRACK) == 0
    assert again.calls == []
    found = [line["found_keypoints"][0] for line in _lines(whole)]
    smoothed = [line["results"][0]["keypoints"] for line in _lines(whole)]
    assert smoothed[0] == found[0]
    tremble = [np.diff(points, axis=0)[:, 1::3].std() for points in (smoothed, found)]
    assert tremble[0] < 0.6 * tremble[1]


def _pictures(file):
    capture = cv2.VideoCapture(str(file))
    while (read := capture.read())[0]:
        yield read[1]


def test_each_class_may_have_a_threshold_of_its_own(tmp_path):
    pytest.importorskip("trackers")
    writer = PredictionWriter(tmp_path, Metadata())
    videos = VideoOutput(writer, TrackOptions(), [0.9, 0.3])
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]
    found = instances((64, 96), boxes, [0.8, 0.4, 0.95], [0, 1, 0])
    frame = Frame(Source(tmp_path / "a.mp4", "a.mp4"), "a.mp4#0", time=0.0, rate=25.0)
    line = videos.line(frame, found)
    assert [(r["score"], r["track_id"]) for r in line["results"]] == [
        (pytest.approx(0.4), 1),
        (pytest.approx(0.95), 2),
    ]
    assert line["faint"] == [[0, 0.0, 0.0, 9.0, 9.0, pytest.approx(0.8)]]


def test_without_pictures_ids_go_on_too(tmp_path):
    pytest.importorskip("trackers")
    pytest.importorskip("av")
    file = tmp_path / "clip.mp4"
    write_h264(file, np.arange(12) / 25)
    for model in (_Model(7), _Model()):
        writer = PredictionWriter(tmp_path / "out", Metadata(), resume=True)
        try:
            predict_sources(model, find_sources([str(file)]), writer, track=TRACK)
        except KeyboardInterrupt:
            assert len(model.calls) == 8
        writer.close()
    ids = [[record["track_id"] for record in line["results"]] for line in _lines(tmp_path / "out")]
    assert ids == [[1]] * 5 + [[1, 2]] * 7


def test_a_frame_that_failed_is_done_by_the_next_call(tmp_path, capsys):
    pytest.importorskip("trackers")
    pytest.importorskip("av")
    file = tmp_path / "clip.mp4"
    write_h264(file, np.arange(10) / 25)
    out = tmp_path / "out"
    assert _run(_Model(fail_at=3), file, out, track=TRACK) == 1
    assert "clip.mp4#3: MemoryError: of the model" in capsys.readouterr().err
    before = _lines(out)
    assert count(out / "pictures" / "clip.mp4") == 9
    for calls in ([3], []):
        model = _Model()
        assert _run(model, file, out, track=TRACK) == 0
        assert model.calls == calls
    assert count(out / "pictures" / "clip.mp4") == 10
    after = _lines(out)
    assert [line for line in after if line["file"] != "clip.mp4#3"] == before
    assert len(after) == 10
    assert [record["track_id"] for record in after[3]["results"]] == [1]


def test_broken_frames_are_said_and_the_others_are_done(tmp_path, capsys):
    pytest.importorskip("av")
    file = tmp_path / "clip.mp4"
    write_h264(file, np.arange(10) / 25, options={"g": "1"})
    for place, size, _ in packets(file)[4:6]:
        overwrite(file, place, size)
    out = tmp_path / "out"
    for _ in range(2):  # once more it is not drawn again, as all that there is was done
        model = _Model()
        assert _run(model, file, out) == 1
        assert "clip.mp4: frames 4 to 5 are broken (" in capsys.readouterr().err
        names = [line["file"] for line in _lines(out)]
        assert names == [f"clip.mp4#{index}" for index in (0, 1, 2, 3, 6, 7, 8, 9)]
    assert model.calls == []
    expected = [index / 25 for index in (0, 1, 2, 3, 6, 7, 8, 9)]
    assert read_times(out / "pictures" / "clip.mp4") == pytest.approx(expected, abs=1e-4)


def test_without_pyav_opencv_writes_and_that_is_said_once(tmp_path, without_pyav, capsys):
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, 3)
    out, model = tmp_path / "out", _Model()
    model.__class__ = type("Any", (_Model,), {"__call__": lambda self, image: {
        "instances": instances(image.shape, [[2, 2, 30, 40]])}})  # fmt: skip
    writer = PredictionWriter(out, Metadata(), resume=True)
    sources = find_sources([str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")])
    assert predict_sources(model, sources, writer, pictures=out / "pictures") == 0
    writer.close()
    error = capsys.readouterr().err
    assert error.count("browsers do not play: PyAV is not installed") == 1
    assert [count(out / "pictures" / name) for name in ("a.mp4", "b.mp4")] == [3, 3]


class _Loaded(_Model):
    """In place of a Predictor, which a command loads."""

    metadata, num_classes = Metadata(thing_classes=["person"]), 1
    model: object = None

    def __init__(self, *_, **__) -> None:
        super().__init__()


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command with a model that finds what is scripted."""
    monkeypatch.setattr("mrcnn_ext.predict.__main__.Predictor", _Loaded)
    (tmp_path / "model.pth").write_bytes(b"")
    config = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"
    start = ["--config-file", config, "--weights", str(tmp_path / "model.pth")]
    return lambda *rest: main([*start, "--output", str(tmp_path / "out"), *map(str, rest)])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_leave_a_playable_file_and_valid_json(command, tmp_path, monkeypatch, name, capsys):
    pytest.importorskip("trackers")
    pytest.importorskip("av")
    file, out, calls = tmp_path / "clip.mp4", tmp_path / "out", []
    write_h264(file, np.arange(9) / 25)

    def call(self, image):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(getattr(signal, name))
        return {"instances": _found(image)}

    monkeypatch.setattr(_Loaded, "__call__", call)
    arguments = [file, "--track", "--smooth-keypoints"]
    assert command(*arguments) == 128 + getattr(signal, name)
    error = capsys.readouterr().err
    assert "clip.unfinished.mp4" in error
    assert "interrupted; 3 images" in error
    assert count(out / "pictures" / "clip.unfinished.mp4") == 3
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 3
    assert command(*arguments[:2]) == 2
    assert "--smooth-keypoints was 1 5 and is None" in capsys.readouterr().err
    assert command(*arguments) == 0
    assert len(calls) == 4 + 6
    assert [path.name for path in (out / "pictures").iterdir()] == ["clip.mp4"]
    assert [len(line["results"]) for line in _lines(out)] == [1] * 5 + [2] * 4
    (out / "pictures" / "clip.unfinished.mp4").write_bytes(b"")
    assert command(*arguments, "--restart") == 0
    assert len(calls) == 10 + 9
    assert [path.name for path in (out / "pictures").iterdir()] == ["clip.mp4"]


def test_a_model_without_keypoints_has_none_to_smooth(command, tmp_path, monkeypatch, capsys):
    pytest.importorskip("trackers")
    write_clip(tmp_path / "clip.mp4", 2)
    model = SimpleNamespace(roi_heads=SimpleNamespace(keypoint_on=False))
    monkeypatch.setattr(_Loaded, "model", model)
    assert command(tmp_path / "clip.mp4", "--track", "--smooth-keypoints") == 2
    assert "--smooth-keypoints: the model has no keypoints" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--smooth-keypoints"], "--smooth-keypoints needs --track"),
        (["--track", "--smoothing", "1", "1"], "--smoothing is of --smooth-keypoints"),
        (
            ["--track", "--smooth-keypoints", "--smoothing", "0", "1"],
            "--smoothing is 0 1; expected",
        ),
        (["--track"], "--track is for videos, but there is none among INPUT"),
    ],
)
def test_options_that_do_not_fit_are_said(command, tmp_path, capsys, options, message):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3)))
    assert command(tmp_path / "a.png", *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    pytest.importorskip("trackers")
    pytest.importorskip("av")
    peaks = []
    for number, frames in enumerate((100, 100, 800)):
        write_h264(tmp_path / f"{number}.mp4", np.arange(frames) / 25, shape=(96, 144))
        assert _run(_Endless(), tmp_path / f"{number}.mp4", tmp_path / "out", track=TRACK) == 0
        assert count(tmp_path / "out" / "pictures" / f"{number}.mp4") == frames
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    assert peaks[2] - peaks[1] < 25, peaks  # MiB; a frame as it is drawn takes 0.8


class _Endless(_Model):
    """Objects come and go."""

    def __call__(self, image) -> dict:
        self.calls.append(len(self.calls))
        index = len(self.calls)
        box = [37.0 * (index // 40) % 100, 5, 37.0 * (index // 40) % 100 + 40, 60]
        points = np.full((1, KEYPOINTS, 3), 20.0)
        return {"instances": instances(image.shape, [box], keypoints=points)}
