# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The report as a whole: what is written, what the page holds, what wrong input gives."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from mrcnn_ext.data.shapes import ShapesSpec, generate_shapes, register_shapes
from mrcnn_ext.errors import ConfigError, DataError
from mrcnn_ext.evaluation.thresholds import find_thresholds
from mrcnn_ext.report import make_report
from mrcnn_ext.report.__main__ import main
from mrcnn_ext.visualization.colors import COLORS
from mrcnn_ext.visualization.judged import Item, draw_items
from tests.report.made_up_results import made_up_results

BROWSER = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return generate_shapes(ShapesSpec("val", num_images=6, image_size=160), folder)


@pytest.fixture(scope="module")
def files(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    out = {}
    for seed, name in enumerate(("one", "two")):
        entries = made_up_results(shapes, seed=seed, jitter=0.08 - 0.05 * seed)
        out[name] = folder / f"{name}.json"
        out[name].write_text(json.dumps(entries))
    return out


@pytest.fixture(scope="module")
def report(shapes, files, tmp_path_factory):
    """Of two result files, whose names want escaping."""
    out = tmp_path_factory.mktemp("report")
    results = {"<b>one & only</b>": files["one"], "two": files["two"]}
    page = make_report(
        results=results,
        annotations=shapes,
        images=shapes.parent / "images",
        out=out,
        examples=1,
    )
    assert page == out / "report.html"
    return page


class _Page(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in ("src", "href", "srcset", "poster", "data", "action"):
                self.references.append(value)
            if key == "id":
                self.ids.append(value)


def _edited(file, tmp_path, **changes):
    """A copy of a result file whose third entry is changed."""
    entries = json.loads(file.read_text())
    for key, value in changes.items():
        if value is None:
            del entries[2][key]
        else:
            entries[2][key] = value
    out = tmp_path / "edited.json"
    out.write_text(json.dumps(entries))
    return out


# ------------------------------------------------------------------------------------------ the page


def test_page_needs_nothing_but_itself(report):
    text = report.read_text(encoding="utf-8")
    page = _Page(text)
    assert "link" in page.tags
    for reference in page.references:
        assert reference.startswith(("data:", "#")), reference[:80]
        if reference.startswith("#"):
            assert reference[1:] in page.ids
        elif reference.startswith("data:image/"):
            kind, _, data = reference.partition(";base64,")
            picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1)
            assert picture is not None or kind.endswith("gif")
    outside_of_pictures = re.sub(r"data:image/[^\"]*", "", text)
    assert not re.search(r"https?://|url\(|@import|<iframe|fetch\(", outside_of_pictures)
    assert "default-src 'none'" in text


def test_page_shows_all_sections_and_escapes_names(report):
    text = report.read_text(encoding="utf-8")
    page = _Page(text)
    wanted = "scores errors curves confidence sizes masks classes examples inputs".split()
    assert set(wanted) <= set(page.ids)
    assert "<b>one & only</b>" not in text
    assert "&lt;b&gt;one &amp; only&lt;/b&gt;" in text
    assert page.tags.count("figure") == 2 * 4  # the worst and the best: image, truth, two files
    assert text.count("<table") == text.count("</table>") > 7


def test_numbers_and_pictures_lie_beside_the_page(report):
    content = json.loads(report.with_suffix(".json").read_text())
    assert content["task"] == "segm"
    assert content["max_dets"] == 100
    first, second = content["results"]
    assert 0 < first["AP"] < second["AP"] < 1
    assert f"{100 * first['AP']:.1f}" in report.read_text(encoding="utf-8")
    pictures = {p.name for p in (report.parent / "report_pictures").iterdir()}
    plots = {"curves", "class_curves", "costs", "counts", "scores", "calibration"}
    expected = {f"{name}{theme}.png" for name in plots for theme in ("", "_dark")}
    assert pictures == expected | {"worst_1.png", "best_1.png"}
    for name in pictures:
        assert cv2.imread(str(report.parent / "report_pictures" / name)).std() > 5
    assert {p.name for p in report.parent.iterdir()} == {
        "report.html", "report.json", "report_pictures",
    }  # fmt: skip


def test_same_input_gives_the_same_page(report, shapes, files, tmp_path):
    results = {"<b>one & only</b>": files["one"], "two": files["two"]}
    arguments = {"annotations": shapes, "images": shapes.parent / "images", "examples": 1}
    again = make_report(results=results, out=tmp_path, **arguments)
    assert again.read_bytes() == report.read_bytes()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("dark", [False, True])
def test_page_opens_in_a_browser_without_errors(report, dark, tmp_path):
    check = """<script>
      addEventListener("load", () => {
        document.querySelectorAll("table.sortable thead tr:last-child th:nth-child(3)")
          .forEach((head) => head.click());
        document.querySelector("img.zoom").click();
        const pictures = [...document.images];
        document.title = "loaded " + pictures.filter((p) => p.complete && p.naturalWidth).length
          + " of " + pictures.length + ", dialog " + document.querySelector("dialog").open
          + ", sorted " + document.querySelectorAll("th[aria-sort]").length
          + ", wider " + (document.documentElement.scrollWidth > innerWidth);
      });</script></body>"""
    page = tmp_path / "page.html"
    text = report.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", check), encoding="utf-8")
    flags = """--headless --no-sandbox --disable-gpu --no-first-run --disable-sync --dump-dom
        --disable-background-networking --disable-component-update --enable-logging=stderr""".split()
    flags += ["--force-dark-mode"] if dark else []
    command = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search("<title>(.*?)</title>", result.stdout)[1]
    count = _Page(text).tags.count("img")
    tables = text.count('class="sortable')
    assert title == f"loaded {count} of {count}, dialog true, sorted {tables}, wider false"
    assert "CONSOLE" not in result.stderr


# ----------------------------------------------------------------------------------- all kinds of input


def test_command(shapes, files, tmp_path, capsys):
    arguments = ["--annotations", shapes, "--results", f"one={files['one']}", "--out", tmp_path]
    assert main([str(a) for a in [*arguments, "--task", "bbox", "--title", "My run"]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["box", "AP", "AP50", "AP75", "AR", "detections"]
    assert lines[-1] == str(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>My run</title>" in text
    assert "No folder of images was given" in text
    assert 'id="masks"' in text  # boxes are compared, but masks are there


def test_registered_data_set(tmp_path):
    spec = ShapesSpec("val", num_images=2, image_size=96)
    register_shapes("report_shapes", spec, tmp_path)
    entries = made_up_results(generate_shapes(spec, tmp_path))
    page = make_report(dataset="report_shapes", results={"run": entries}, out=tmp_path / "out")
    assert "report_shapes" in page.read_text(encoding="utf-8")
    assert json.loads(page.with_suffix(".json").read_text())["images"] == 2
    with pytest.raises(DataError, match="no data set 'report_shape' is registered"):
        make_report(dataset="report_shape", results={"run": entries}, out=tmp_path)


def test_boxes_only_and_an_empty_file(shapes, tmp_path):
    boxes = made_up_results(shapes, boxes_only=True)
    page = make_report(annotations=shapes, results={"boxes": boxes, "none": []}, out=tmp_path)
    content = json.loads(page.with_suffix(".json").read_text())
    assert content["task"] == "bbox"
    assert content["results"][1]["AP"] == 0
    assert content["results"][1]["errors"]["miss"] == content["instances"]
    assert 'id="masks"' not in page.read_text(encoding="utf-8")


def test_nothing_but_an_empty_file(shapes, tmp_path):
    page = make_report(annotations=shapes, results={"none": []}, out=tmp_path)
    assert not (tmp_path / "report_pictures" / "calibration.png").exists()
    assert json.loads(page.with_suffix(".json").read_text())["results"][0]["detections"] == 0


@pytest.mark.parametrize("number", [0, 1])
def test_one_image(number, tmp_path):
    content = {
        "images": [{"id": 7, "height": 50, "width": 60, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "thing"}],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 3, "bbox": [5, 5, 20, 20], "iscrowd": 0}
        ][:number],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    found = [{"image_id": 7, "category_id": 3, "bbox": [5, 5, 20, 21], "score": 0.7}]
    page = make_report(annotations=file, results={"run": found}, out=tmp_path / "out")
    entry = json.loads(page.with_suffix(".json").read_text())["results"][0]
    assert entry["AP"] == (pytest.approx(1.0) if number else None)  # though the id is 0
    assert entry["errors"]["bkg"] == 1 - number


def test_more_than_a_hundred_detections_of_a_class_count_and_it_is_said(tmp_path):
    boxes = [[4 * (i % 50), 8 * (i // 50), 3, 6] for i in range(150)]
    common = {"image_id": 1, "category_id": 1}
    content = {
        "images": [{"id": 1, "height": 100, "width": 200}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {**common, "id": i + 1, "bbox": b, "area": 18} for i, b in enumerate(boxes)
        ],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    found = [{**common, "bbox": b, "score": 1 - i / 200} for i, b in enumerate(boxes)]
    page = make_report(annotations=file, results={"run": found}, out=tmp_path / "out")
    entry = json.loads(page.with_suffix(".json").read_text())
    assert entry["max_dets"] == 150
    assert entry["results"][0]["AP"] == pytest.approx(1.0)
    assert "raised from COCO's 100" in page.read_text(encoding="utf-8")


def test_keypoints(shapes, tmp_path):
    truth = json.loads(shapes.read_text())
    found = [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox", "keypoints")}, "score": 0.5}
        for a in truth["annotations"]
    ]
    arguments = {"annotations": shapes, "results": {"run": found}, "out": tmp_path}
    page = make_report(**arguments)  # the category's skeleton has the stated default
    default = json.loads(page.with_suffix(".json").read_text())["results"][0]["keypoints"]
    page = make_report(**arguments, oks_sigmas=[0.05] * 11)
    entry = json.loads(page.with_suffix(".json").read_text())["results"][0]
    assert entry["keypoints"] == default
    assert entry["keypoints"]["AP"] == pytest.approx(1.0)
    assert 'id="keypoints"' in page.read_text(encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"--oks-sigmas: .* has 11 keypoints .* there are 3 sigmas"
    ):
        make_report(**arguments, oks_sigmas=[0.05] * 3)


def test_an_earlier_report_is_replaced_and_other_files_stay(shapes, files, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    arguments = {"annotations": shapes, "out": tmp_path}
    make_report(results={"one": files["one"]}, examples=2, **arguments)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(DataError):
        make_report(results={"one": tmp_path / "none.json"}, **arguments)
    assert (tmp_path / "report.html").read_bytes() == before
    make_report(results={"one": files["one"]}, examples=0, **arguments)
    assert "worst_1.png" not in {p.name for p in (tmp_path / "report_pictures").iterdir()}
    names = {"notes.txt", "report.html", "report.json", "report_pictures"}
    assert {p.name for p in tmp_path.iterdir()} == names


# ------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 99}, r"a prediction is for image id 99, which is not in .*annotations"),
        (
            {"category_id": 77},
            r"a prediction for image id 1 has category 77; .* has the categories 1, 2, 3",
        ),
        (
            {"score": float("nan")},
            r"prediction 2 \(image id 1\) has the 'score' nan, expected a finite",
        ),
        (
            {"bbox": [1, 2, 3]},
            r"image id 1\) has the 'bbox' \[1, 2, 3\], expected four finite numbers",
        ),
        ({"bbox": [1, 2, -3, 4]}, r"'bbox' \[1, 2, -3, 4\]"),
        ({"bbox": None, "segmentation": None}, r"image id 1\) has neither bbox nor segmentation"),
        (
            {"segmentation": {"size": [5, 5], "counts": "PPYo0"}},
            r"image id 1\) .* a mask of 5 x 5 pixels, but the image has 1\d\d x 1",
        ),
        ({"segmentation": 3}, r"image id 1\) .*its segmentation is neither polygons nor RLE"),
        ({"keypoints": [1, 2]}, r"'keypoints' that are not three finite numbers each"),
    ],
)
def test_wrong_results_name_file_and_image(changes, message, shapes, files, tmp_path):
    file = _edited(files["one"], tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        make_report(annotations=shapes, results={"run": file}, out=tmp_path / "out")
    assert str(file) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_masks_that_are_asked_for_must_be_there(shapes, files, tmp_path):
    file = _edited(files["one"], tmp_path, segmentation=None)
    with pytest.raises(
        DataError, match=r"edited.json: task 'segm' needs 'segmentation', which .* image id 1 "
    ):
        make_report(annotations=shapes, results={"run": file}, out=tmp_path / "out", task="segm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ('[{"image_id": 1,', "is not valid json"),
        ("{}", "a list of predictions"),
    ],
)
def test_damaged_results(text, message, shapes, tmp_path):
    file = tmp_path / "results.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=f"results.json.* {message}|results.json.*{message}"):
        make_report(annotations=shapes, results={"run": file}, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "is no COCO data set: 'images' is missing"),
        (lambda c: c["images"].clear(), "there are no images"),
        (lambda c: c["images"].append(c["images"][0]), "two images have the id 1"),
        (lambda c: c["images"][0].pop("width"), "image 1 has no height and width"),
        (lambda c: c["annotations"][0].update(image_id=50), "annotation 1: its image_id is not"),
        (lambda c: c["annotations"][0].update(image_id=[1]), "annotation 1: its image_id is not"),
        (
            lambda c: c["annotations"][0].update(category_id=50),
            "image 1, annotation 1: its category_id 50",
        ),
        (lambda c: c["annotations"][0].update(bbox=[1]), r"image 1, annotation 1: bbox \[1\]"),
        (
            lambda c: c["annotations"][0]["segmentation"].update(size=[4, 4]),
            "image 1, annotation 1",
        ),
    ],
)
def test_wrong_annotations(change, message, shapes, files, tmp_path):
    content = json.loads(shapes.read_text())
    change(content)
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"truth.json: {message}"):
        make_report(annotations=file, results={"run": files["one"]}, out=tmp_path / "out")


def test_wrong_images(shapes, files, tmp_path):
    arguments = {"annotations": shapes, "results": {"run": files["one"]}, "out": tmp_path / "out"}
    with pytest.raises(DataError, match="there is no such folder"):
        make_report(images=tmp_path / "none", **arguments)
    with pytest.raises(DataError, match=r"image \d+: .*\.jpg cannot be read"):
        make_report(images=tmp_path, **arguments)
    for number in range(1, 7):
        cv2.imwrite(str(tmp_path / f"{number:06d}.jpg"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"image \d+: .* has \(height, width\) \(9, 9\)"):
        make_report(images=tmp_path, **arguments)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_picture_is_named_and_the_others_are_drawn(shapes, files, tmp_path, capsys):
    content = json.loads(shapes.read_text())
    for image in content["images"]:
        pixels = np.full((image["height"], image["width"], 3), 90, np.uint8)
        cv2.imwrite(str(tmp_path / image["file_name"]), pixels)
    broken = content["images"][0]
    (tmp_path / broken["file_name"]).write_text("no picture")
    arguments = ["--annotations", str(shapes), "--images", str(tmp_path), "--examples", "50"]
    arguments += ["--results", f"run={files['one']}", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    (note,) = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    assert note.startswith(f"Drawn on a plain ground: image {broken['id']}: ")
    assert "cannot be read" in note
    assert note in capsys.readouterr().out
    assert "Drawn on a plain ground" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("where", ["truth", "results", None])
def test_it_says_why_boxes_are_compared(shapes, files, tmp_path, where):
    content, results = json.loads(shapes.read_text()), json.loads(files["one"].read_text())
    if where == "truth":
        for annotation in content["annotations"][3:5]:
            del annotation["segmentation"]
    elif where == "results":
        del results[2]["segmentation"]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    arguments = {"annotations": tmp_path / "truth.json", "out": tmp_path / "out"}
    make_report(results={"run": tmp_path / "results.json"}, **arguments)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    if where is None:
        assert (report["task"], report["notes"]) == ("segm", [])
        return
    (note,) = report["notes"]
    assert report["task"] == "bbox"
    first = content["annotations"][3]
    place = f"image {first['image_id']}, annotation {first['id']}"
    number, total = (2, len(content["annotations"])) if where == "truth" else (1, len(results))
    assert f"{number} of {total} {'objects' if where == 'truth' else 'predictions'}" in note
    assert ("--boxes-only" in note) == (where == "truth")
    assert (place if where == "truth" else f"image id {results[2]['image_id']}") in note
    make_report(results={"run": tmp_path / "results.json"}, task="bbox", **arguments)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["notes"] == []


@pytest.mark.slow
def test_the_command_takes_objects_without_a_mask(shapes, files, tmp_path, capsys):
    content = json.loads(shapes.read_text())
    for annotation in content["annotations"][3:6]:
        del annotation["segmentation"]
    file = tmp_path / "mixed.json"
    file.write_text(json.dumps(content))
    arguments = ["--annotations", file, "--results", f"one={files['one']}", "--out", tmp_path]
    assert main([str(a) for a in [*arguments, "--boxes-only", "--examples", 1]]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    number = len(content["annotations"])
    assert (report["task"], report["instances"]) == ("segm", number - 3)
    assert f"3 of {number} objects have a box and no mask" in report["notes"][0]
    assert report["notes"][0] in capsys.readouterr().out
    assert main([str(a) for a in [*arguments, "--task", "segm"]]) == 2
    assert "has no 'segmentation', which evaluating masks needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--results", "file.json"], r"--results 'file.json': expected NAME=FILE"),
        (["--results", "=file.json"], r"expected NAME=FILE"),
        (["--results", "a="], r"expected NAME=FILE"),
        (["--results", "a=x", "a=y"], r"the name 'a' is given twice"),
        (["--results", "a=x"], r"either --dataset or --annotations"),
        (["--results", "a=x", "--annotations", "b", "--examples", "-1"], r"--examples is -1"),
        (["--results", "a=x", "--import", "no_such_module"], r"--import no_such_module"),
    ],
)
def test_wrong_usage(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(shapes, files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"--out .*file"):
        make_report(annotations=shapes, results={"r": files["one"]}, out=tmp_path / "file")


# ----------------------------------------------------------------------------------------- drawing


def test_items_are_drawn_where_they_are_and_in_their_colour():
    image = np.full((320, 640, 3), 128, np.uint8)
    items = [
        Item("right", "", [100, 100, 80, 60], None),
        Item("bkg", "Bkg ring 80", [300, 100, 80, 60], None),
        Item("miss", "", [500, 100, 80, 60], None),
    ]
    picture = draw_items(image, items).astype(int)
    assert picture.shape == image.shape

    def close_to(kind):
        color = np.array([int(COLORS[kind][i : i + 2], 16) for i in (1, 3, 5)])
        return np.abs(picture - color).max(axis=2) < 12

    assert close_to("right")[100, 100:180].all()
    assert 0.3 < close_to("miss")[100, 505:575].mean() < 0.95  # dashed
    assert close_to("bkg")[70:99, 300:330].any()  # its label, above
    assert (picture[105:155, 105:175] == 128).all()  # boxes are not filled
    assert (image == 128).all()


# ------------------------------------------------------------------------------- thresholds by class


def test_thresholds_and_confusion_are_those_of_the_evaluation(report, shapes, files):
    content = json.loads((report.parent / "report.json").read_text())
    points, names = find_thresholds(shapes, files["two"])
    shown = content["results"][1]["operating_points"]
    assert list(shown["classes"]) == names
    for name, point in zip(names, points.of_class):
        assert shown["classes"][name]["threshold"] == pytest.approx(point.threshold, abs=1e-5)
    assert shown["confusion"]["matrix"] == points.confusion.tolist()
    text = report.read_text(encoding="utf-8")
    assert text.count('<th scope="col" class="">missed</th>') >= 2
    assert f">{points.of_class[0].threshold:.3f}" in text.replace("\n", "")
