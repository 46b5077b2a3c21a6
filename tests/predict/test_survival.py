# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions survive kills, and faults of single images; the same command does the rest."""

from __future__ import annotations

import json
import os
import resource

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_ext.errors import DataError, WeightsError
from mrcnn_ext.files import only_process
from mrcnn_ext.predict import Predictor
from mrcnn_ext.predict.__main__ import main
from mrcnn_ext.predict.predictor import named_weights
from mrcnn_ext.predict.reading import read_frames
from mrcnn_ext.predict.result_file import ResultFile
from mrcnn_ext.predict.sources import find_sources
from mrcnn_ext.visualization import instances as drawing
from tests.predict.conftest import noise, write_clip
from tests.predict.ended_run import end_predict


def _arguments(config, *arguments) -> list[str]:
    start = ["--config-file", config, "--score-threshold", 0, "--no-pictures", "--device", "cpu"]
    return [str(argument) for argument in (*start, *arguments)]


def _lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "coco_results.jsonl").read_text().splitlines()]


def _check_consistent(out, names: list[str]) -> None:
    """Both json files say what the lines say, of these images."""
    lines = _lines(out)
    images = json.loads((out / "predictions.json").read_text())["images"]
    assert [line["file"] for line in lines] == [image["file"] for image in images]
    assert sorted(line["file"] for line in lines) == sorted(names)
    assert [line["image_id"] for line in lines] == list(range(len(lines)))
    results = json.loads((out / "coco_results.json").read_text())
    assert results == [result for line in lines for result in line["results"]]
    assert {r["image_id"] for r in results} <= {line["image_id"] for line in lines}


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """20 images, and the results of a run that nothing ended."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "many").mkdir()
    for index in range(20):
        cv2.imwrite(str(folder / "many" / f"{index:02d}.png"), noise(index, 40, 50))
    config, _ = trained
    assert main(_arguments(config, folder / "many", "--output", folder / "out")) == 0
    return folder / "many", json.loads((folder / "out" / "coco_results.json").read_text())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGKILL", -9),
        pytest.param("SIGTERM", 143, marks=pytest.mark.slow),
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
        pytest.param("SIGHUP", 129, marks=pytest.mark.slow),
    ],
)
def test_signals_keep_what_was_done_and_the_next_call_does_the_rest(
    trained, whole, tmp_path, name, code
):
    config, _ = trained
    many, expected = whole
    out = tmp_path / "out"
    arguments = _arguments(config, many, "--output", out)
    found, error = end_predict(arguments, out, name, begins=200, ends=100)
    assert found == code, error
    done = [f"{index:02d}.png" for index in range(len(_lines(out)))]
    assert 3 <= len(done) < 20
    if name != "SIGKILL":
        assert f"interrupted; {len(done)} images" in error
        assert "Traceback" not in error
        _check_consistent(out, done)
    with (out / "coco_results.jsonl").open("ab") as handle:
        handle.write(b'{"image_id": 20, "file": "19.p')  # torn
    calls = []
    original = Predictor.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "__call__", lambda s, i: (calls.append(1), original(s, i))[1])
        assert main(arguments) == 0
    assert len(calls) == 20 - len(done)
    _check_consistent(out, [f"{index:02d}.png" for index in range(20)])
    results = json.loads((out / "coco_results.json").read_text())
    assert [(r["image_id"], r["category_id"]) for r in results] == [
        (r["image_id"], r["category_id"]) for r in expected
    ]
    np.testing.assert_allclose(
        [r["bbox"] for r in results], [r["bbox"] for r in expected], atol=1e-3
    )
    assert not list(out.glob(".*"))


# Every image takes a moment, so that a signal comes within the run.


def test_images_without_detections_have_a_line(trained, photos, tmp_path):
    config, _ = trained
    arguments = ["--config-file", str(config), "--score-threshold", "1", str(photos)]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert [(line["file"], line["results"]) for line in _lines(tmp_path / "out")] == [
        ("a.png", []),
        ("b.jpg", []),
        ("more/a.png", []),
    ]
    _check_consistent(tmp_path / "out", ["a.png", "b.jpg", "more/a.png"])


def test_faulty_images_are_left_out_with_one_line_each(
    trained, photos, tmp_path, capsys, monkeypatch
):
    config, _ = trained
    Image.fromarray(noise(0)[..., 0].astype(np.uint16) * 200).save(photos / "deep.png")
    (photos / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:500])
    latin = os.fsencode(photos) + b"/latin_\xe9.jpg"
    with open(latin, "wb") as file:
        file.write((photos / "b.jpg").read_bytes())
    cv2.imwrite(str(photos / "flat.png"), noise(3, 1, 5000))
    cv2.imwrite(str(photos / "model.png"), noise(4, 33, 44))
    cv2.imwrite(str(photos / "drawing.png"), noise(5, 55, 66))
    long = "n" * 251 + ".jpg"
    cv2.imwrite(str(photos / "n.jpg"), noise(6))
    (photos / "n.jpg").rename(photos / long)  # its picture has a longer name
    predict, draw = Predictor.__call__, drawing.draw_instances

    def call(self, image):
        if image.shape[:2] == (33, 44):
            raise RuntimeError("CUDA out of memory.\nTried to allocate …")
        return predict(self, image)

    def drawn(image, *arguments, **options):
        if image.shape[:2] == (55, 66):
            raise ZeroDivisionError("division by zero")
        return draw(image, *arguments, **options)

    monkeypatch.setattr(Predictor, "__call__", call)
    monkeypatch.setattr("mrcnn_ext.predict.run.draw_instances", drawn)
    arguments = ["--config-file", str(config), "--score-threshold", "0", str(photos)]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()
    left_out = [line for line in error if line.startswith("left out: ")]
    flat = any("flat.png" in line for line in left_out)
    for part in (
        "deep.png: holds 16-bit grey values",
        "cut.jpg: ",
        "latin_\\udce9.jpg: its name is not valid UTF-8",
        "model.png: RuntimeError: CUDA out of memory.",
        "drawing.png: ZeroDivisionError: division by zero",
        "cannot be written: File name too long",
    ):
        assert sum(part in line for line in left_out) == 1, part
    assert len(left_out) == 6 + flat
    assert len(error) == len(left_out) + 1
    names = ["a.png", "b.jpg", "more/a.png", long] + ([] if flat else ["flat.png"])
    _check_consistent(tmp_path / "out", names)


def test_model_options_and_inputs_must_be_the_same(trained, photos, tmp_path, capsys):
    config, cfg = trained
    out = tmp_path / "out"
    arguments = _arguments(config, photos, "--output", out)
    assert main(arguments) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def refused(*parts, arguments=arguments) -> None:
        capsys.readouterr()
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        for part in (*parts, "--restart"):
            assert part in error
        assert {file.name: file.read_bytes() for file in out.iterdir()} == before

    other = tmp_path / "other.pth"
    torch.save({**torch.load(cfg.MODEL.WEIGHTS), "iteration": 7}, other)
    refused("weights was ", arguments=[*arguments, "--weights", str(other)])
    refused("config was ", arguments=[*arguments, "--opts", "TEST.DETECTIONS_PER_IMAGE", "3"])
    refused(
        "--score-threshold was 0.0 and is 0.5", arguments=[*arguments, "--score-threshold", "0.5"]
    )
    # New images are done; what was done must be there, as it was.
    cv2.imwrite(str(photos / "aa.png"), noise(8))
    assert main(arguments) == 0
    _check_consistent(out, ["a.png", "b.jpg", "more/a.png", "aa.png"])
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    cv2.imwrite(str(photos / "a.png"), noise(9))
    refused("1 of them are changed since: a.png")
    (photos / "a.png").unlink()
    refused("1 of them are not among INPUT any more: a.png")
    assert main([*arguments, "--restart"]) == 0
    _check_consistent(out, ["aa.png", "b.jpg", "more/a.png"])


def test_results_of_another_kind_are_not_overwritten(trained, photos, tmp_path, capsys):
    config, _ = trained
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "coco_results.json").write_text("[]")
    assert main(_arguments(config, photos, "--output", tmp_path / "out")) == 2
    assert "holds coco_results.json, but no coco_results.jsonl" in capsys.readouterr().err
    assert (tmp_path / "out" / "coco_results.json").read_text() == "[]"


def test_the_folder_is_tried_and_held_before_the_model_is_loaded(
    trained, photos, tmp_path, capsys, monkeypatch
):
    config, _ = trained

    def loaded(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("mrcnn_ext.predict.__main__.Predictor", loaded)
    (tmp_path / "file").write_text("")
    for output, message in (
        (tmp_path / "file", "nothing can be written to "),
        (tmp_path / "file" / "below", "Not a directory"),
        ("/proc/nothing", "nothing can be written to /proc/nothing"),
        (os.fsdecode(b"out_\xe9"), "can't encode"),
    ):
        assert main(_arguments(config, photos, "--output", output)) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with only_process(tmp_path / "out"):
        assert main(_arguments(config, photos, "--output", tmp_path / "out")) == 2
    assert "another process is at work in " in capsys.readouterr().err
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    try:
        assert main(_arguments(config, photos, "--output", tmp_path / "full")) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in capsys.readouterr().err


def test_a_line_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    file = ResultFile(tmp_path / "a.jsonl", resume=True)
    file.append({"file": "a", "results": []})
    before = file.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            file.append({"file": "b", "results": [{"x": "y" * 10000}]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.path.read_bytes() == before
    file.append({"file": "b", "results": [{}]})
    file.close()
    again = ResultFile(tmp_path / "a.jsonl", resume=True)
    assert again.done == {"a": None, "b": None}
    assert again.num_instances == 1
    assert [line["file"] for line in again] == ["a", "b"]


@pytest.mark.parametrize(
    "torn", [b'{"file"', b'{"file": "b", "results": []', b"\0\0\0", b"\n", b""]
)
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"file": "a", "results": [1, 2]}\n' + torn)
    file = ResultFile(path, resume=True)
    assert list(file.done) == ["a"]
    file.append({"file": "c", "results": []})
    assert [json.loads(line)["file"] for line in path.read_text().splitlines()] == ["a", "c"]
    whole = ResultFile(tmp_path / "b.jsonl", resume=False)
    whole.path.write_bytes(b'{"file": "a", "results": []}')  # without its line break
    resumed = ResultFile(whole.path, resume=True)
    resumed.append({"file": "c", "results": []})
    assert [line["file"] for line in resumed] == ["a", "c"]


def test_damage_within_the_lines_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"file": "a", "results": []}\n{"fi\n{"file": "b", "results": []}\n')
    with pytest.raises(DataError, match=r"a.jsonl: line 2 is not valid json"):
        ResultFile(path, resume=True)
    path.write_text('{"image_id": 1}\n')
    with pytest.raises(DataError, match="a line without 'file'"):
        ResultFile(path, resume=True)


def test_videos_go_on_where_they_ended(trained, tmp_path, monkeypatch):
    config, _ = trained
    file = tmp_path / "clip.mp4"
    write_clip(file, 6)
    predict, calls = Predictor.__call__, []

    def stopping(self, image):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, image)

    monkeypatch.setattr(Predictor, "__call__", stopping)
    out = tmp_path / "out"
    arguments = ["--config-file", str(config), "--score-threshold", "0", str(file)]
    arguments += ["--output", str(out)]
    assert main(arguments) == 130
    assert len(_lines(out)) == 2
    assert main(arguments) == 0
    _check_consistent(out, [f"clip.mp4#{index}" for index in range(6)])
    assert len(calls) == 3 + 4  # all are drawn anew, with what the first call found
    drawn = cv2.VideoCapture(str(out / "pictures" / "clip.mp4"))
    assert int(drawn.get(cv2.CAP_PROP_FRAME_COUNT)) == 6
    assert main(arguments) == 0
    assert len(calls) == 7
    assert [p.name for p in (out / "pictures").iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("again", [False, True])
def test_lines_are_not_written_to_a_file_that_was_deleted(again, tmp_path):
    results = ResultFile(tmp_path / "a.jsonl", resume=True)
    results.append({"file": "a", "results": []})
    results.path.unlink()
    if again:
        results.path.write_text("")
    with pytest.raises(OSError, match=r"No such file|replaced by another"):
        results.append({"file": "b", "results": []})
    assert list(results.done) == ["a"]
    results.close()


def test_weights_that_cannot_be_had_and_inputs_that_cannot_be_searched(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("x" * 5000, str(tmp_path / "loop")):
        with pytest.raises(DataError, match=r"^INPUT '"):
            find_sources([name])
    with pytest.raises(WeightsError, match="'catalog://nonsense' cannot be had"):
        named_weights(None, "catalog://nonsense")


def test_an_image_that_a_pipe_or_device_replaced_is_left_out(photos):
    sources = find_sources([str(photos)])
    for name, target in (("a.png", None), ("b.jpg", "/dev/zero")):
        (photos / name).unlink()
        os.mkfifo(photos / name) if target is None else (photos / name).symlink_to(target)
    frames = {frame.name: frame for frame in read_frames(sources, (), every=1, pictures=None)}
    assert frames["more/a.png"].fault is None
    for name in ("a.png", "b.jpg"):
        assert "is a pipe, socket or device" in str(frames[name].fault)
