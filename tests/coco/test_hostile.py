# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Json that is made to hang, crash or leak: one message, soon, in little memory."""

from __future__ import annotations

import json
import re
import resource
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_util

from mrcnn_ext.coco.index import GroundTruth
from mrcnn_ext.coco.rle import mask_crop, to_rle
from mrcnn_ext.data.check.__main__ import main as check
from mrcnn_ext.errors import DataError
from mrcnn_ext.evaluation.__main__ import main as evaluation
from mrcnn_ext.report.__main__ import main as report

IMAGE = {"id": 1, "file_name": "a.png", "height": 64, "width": 64}
CATEGORY = {"id": 1, "name": "c"}
FAR = 10**9


def _truth(image=(), category=(), **annotation) -> dict:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "area": 400}
    entry |= {"iscrowd": 0, "segmentation": [[1, 1, 20, 1, 20, 20]], **annotation}
    images, categories = [{**IMAGE, **dict(image)}], [{**CATEGORY, **dict(category)}]
    return {"images": images, "annotations": [entry], "categories": categories}


def _rle(counts, size=(64, 64)) -> dict:
    return {"size": list(size), "counts": counts}


def _results(**record) -> list[dict]:
    mask = np.zeros((64, 64), np.uint8, order="F")
    mask[1:20, 1:20] = 1
    rle = mask_util.encode(mask)
    own = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "score": 0.9}
    return [{**own, "segmentation": _rle(rle["counts"].decode()), **record}]


ZIGZAG = [value for k in range(20000) for value in ((-1) ** k * 9e5, k % 64)]
DEEP = "[" * 200000 + "]" * 200000
LARGE = (60000, 60000)
TRUTHS = {
    "deep": (DEEP, "recursion"),
    "deep segmentation": (_truth(segmentation="@"), "recursion"),
    "many digits": ('{"images": [{"id": ' + "1" * 100000 + "}]}", "digits"),
    "surrogate in a name": (_truth(category={"name": "\ud800"}), r"a text in it has '\\ud800'"),
    "surrogate in a file": (_truth(image={"file_name": "\udfff.png"}), r"it has '\\udfff'"),
    "NaN box": (_truth(bbox=[float("nan"), 1, 2, 3]), "annotation 1: bbox"),
    "infinite area": (_truth(area=float("inf")), "annotation 1: area inf"),
    "far polygon": (_truth(segmentation=[[0, 1, 1e8, 1, 1e8, 20]]), "annotation 1: .*1e.06 pixels"),
    "1e308 polygon": (_truth(segmentation=[[1e308, 1, 20, -1e308, 1, 20]]), "annotation 1: "),
    "long outline": (_truth(segmentation=[ZIGZAG]), "annotation 1: a polygon's outline is 3.6e"),
    "RLE of another size": (
        _truth(segmentation=_rle([FAR**2], (FAR, FAR))),
        "annotation 1: .*size",
    ),
    "negative runs": (_truth(segmentation=_rle([-1, 4097])), "annotation 1: .*negative"),
    "garbage runs": (_truth(segmentation=_rle("o" * 40)), "annotation 1: its string breaks off"),
    "large image": (_truth(image={"height": FAR, "width": FAR}), "image 1 has .* 32 bits"),
    "NaN height": (_truth(image={"height": float("nan")}), "image 1 has no height"),
}
RESULTS = {
    "deep": (DEEP, "recursion"),
    "NaN score": (_results(score=float("nan")), r"prediction 0 \(image id 1\) has the 'score' nan"),
    "huge box": (_results(bbox=[1e308] * 4), "prediction 0 .* 'bbox'"),
    "long outline": (_results(segmentation=[ZIGZAG]), "prediction 0 .* outline is"),
    "RLE of another size": (
        _results(segmentation=_rle("0", (FAR, FAR))),
        "prediction 0 .* size is",
    ),
    "garbage": (_results(segmentation=_rle("~~~~\x7f~~~zz")), "prediction 0 .* characters"),
    "no ascii": (_results(segmentation=_rle("é日")), "prediction 0 .* characters"),
    "too long": (_results(segmentation=_rle("o" * 14000)), "prediction 0 .* breaks off"),
    "overrun": (_results(segmentation=_rle("0PPPPPPPPP7PPP4")), "prediction 0 .* 32 bits"),
    "too short": (_results(segmentation=_rle("11")), "prediction 0 .* do not fill"),
    "overflow": (_results(segmentation=_rle([2**31] * 3)), "prediction 0 .* longer than its image"),
    "beyond 64 bits": (_results(segmentation=_rle([2**70, 1])), "prediction 0 .* whole numbers"),
    "negative size": (_results(segmentation=_rle("1", (-64, -64))), "prediction 0 .* size is"),
    "huge keypoints": (_results(keypoints=[1e308] * 51), "prediction 0 .*'keypoints'"),
    "surrogate": (_results(note="\ud800"), r"a text in it has '\\ud800'"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", np.full((64, 64, 3), 99, np.uint8))
    return tmp_path


def _write(name: str, content) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    Path(name).write_text(text.replace('"@"', DEEP))


def _report() -> int:
    return report(
        ["--annotations", "gt.json", "--images", ".", "--results", "a=res.json", "--out", "page"]
    )


def _message(run, capsys) -> str:
    """What a tool prints to stderr, which is to be one line of a bounded length, soon."""
    capsys.readouterr()
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert run() in (1, 2)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KB
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert len(error) < 500
    return error


@pytest.mark.parametrize("name", TRUTHS)
def test_truth(folder, capsys, name):
    content, message = TRUTHS[name]
    _write("gt.json", content)
    _write("res.json", _results())
    tools = {"evaluation": lambda: evaluation(["gt.json", "res.json"]), "report": _report}
    for tool, run in tools.items():
        error = _message(run, capsys)
        assert error.startswith(f"{tool}: gt.json: ")
        assert _found(message, error)
    assert not Path("page/report.html").exists()
    # The check goes on and lists what it finds; here it is to end, and to find something.
    start = time.process_time()
    assert check(["--json-file", "gt.json", "--image-root", "."]) in (1, 2)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("name", RESULTS)
def test_results(folder, capsys, name):
    content, message = RESULTS[name]
    _write("gt.json", _truth())
    _write("res.json", content)
    tools = {"evaluation": lambda: evaluation(["gt.json", "res.json"]), "report": _report}
    for tool, run in tools.items():
        error = _message(run, capsys)
        assert error.startswith(f"{tool}: res.json: ")
        assert _found(message, error)


def _found(pattern: str, text: str) -> bool:

    return re.search(pattern, text) is not None


@pytest.mark.parametrize(
    "name",
    ["../a.png", "../../../../etc/passwd", "/etc/passwd", "x/../../a.png", "a\0.png", 5, None],
)
def test_file_names_that_leave_the_folder(folder, capsys, name):
    """A page shows pictures: a json must not choose them from anywhere on the machine."""
    (folder / "images").mkdir()
    _write("gt.json", _truth(image={"file_name": name}))
    _write("res.json", _results())
    arguments = ["--annotations", "gt.json", "--images", "images", "--results", "a=res.json"]
    error = _message(lambda: report([*arguments, "--out", "page"]), capsys)
    assert "gt.json: image 1 has the file_name" in error
    assert "below the folder of images images" in error


@pytest.mark.parametrize(
    ("root", "name", "file"),
    [
        ("images", "a.png", "images/a.png"),
        ("images", "x/y/a.png", "images/x/y/a.png"),
        ("images/", "x/../a.png", "images/x/../a.png"),
        (".", "a.png", "a.png"),
        ("/", "data/a.png", "/data/a.png"),
        ("", "/data/a.png", "/data/a.png"),  # registered so: its names are whole paths
        ("", "../a.png", "../a.png"),
        ("/data", "/data/a.png", "/data/a.png"),
        (None, "../a.png", None),
    ],
)
def test_file_names_that_stay(root, name, file):
    truth = GroundTruth(_truth(image={"file_name": name}), source="gt.json", image_root=root)
    assert truth.image_file(1) == (None if file is None else Path(file))


def test_masks_of_huge_images_are_not_decoded(folder, capsys):
    """What needs runs alone works; boundaries, which need pixels, say that they are too many."""
    whole = _rle([0, LARGE[0] * LARGE[1]], LARGE)
    _write("gt.json", _truth(image={"height": LARGE[0], "width": LARGE[1]}, segmentation=whole))
    _write("res.json", _results(segmentation=whole))
    error = _message(lambda: evaluation(["gt.json", "res.json"]), capsys)
    assert "covers 60000 x 60000 pixels, too many to decode" in error
    assert evaluation(["gt.json", "res.json", "--tasks", "segm"]) == 0
    with pytest.raises(ValueError, match="too many to decode"):
        mask_crop(whole)


def test_outlines_that_an_image_can_hold_are_drawn():
    """A comb through every second column of the image has about half as many steps as pixels."""
    size = 256
    comb = [v for x in range(0, size, 2) for v in (x, 0, x, size, x + 1, size, x + 1, 0)]
    rle = to_rle([comb], size, size)
    expected = mask_util.frPyObjects([comb], size, size)[0]
    assert rle == expected
    far = [-9e5, -9e5, 9e5, -9e5, 0, 9e5]
    with pytest.raises(ValueError, match="outline"):
        to_rle([far], size, size)
    near = [-2e5, -2e5, 2e5, -2e5, 0, 2e5]
    assert to_rle([near], size, size) == mask_util.frPyObjects([near], size, size)[0]


def test_pairs_of_surrogates_are_characters(folder, capsys):
    _write("gt.json", _truth(category={"name": "\U0001f600 é"}))
    assert "\\ud83d\\ude00" in Path("gt.json").read_text()
    _write("res.json", _results())
    assert evaluation(["gt.json", "res.json"]) == 0


def test_damaged_truth_is_a_data_error():
    truth = GroundTruth(_truth(segmentation=[ZIGZAG]), source="gt.json")
    with pytest.raises(DataError, match=r"gt\.json: image 1, annotation 1: .* outline"):
        truth.rle(truth.objects[0])
