# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Odd and wrong label files: one clear error, or a note; and nothing that was there is lost."""

from __future__ import annotations

import json
import os
import signal

import pytest
from PIL import Image

from mrcnn_ext.command_line import exit_code_of
from mrcnn_ext.data.convert import Options, convert_from_coco, convert_to_coco
from mrcnn_ext.data.convert.__main__ import main
from mrcnn_ext.errors import DataError

from .convert_cases import HEIGHT, SQUARE, WIDTH, convert, masks_of, picture, write

SQUARE_POINTS = [[5, 6], [15, 6], [15, 20], [5, 20]]


def _shape(label: str = "cat", points=None, kind: str = "polygon") -> dict:
    return {"label": label, "points": points or SQUARE_POINTS, "shape_type": kind}


def _labelme(tmp_path, *shapes: dict, name: str = "a", drawn: bool = True):
    if drawn:
        picture(tmp_path / "in", f"{name}.png")
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    content = {"shapes": list(shapes), "imagePath": f"{name}.png", **size}
    write(tmp_path / "in" / f"{name}.json", content)
    return tmp_path / "in"


def _yolo(tmp_path, lines="0 .25 .5 .25 .5\n", more: str = ""):
    picture(tmp_path / "images")
    labels = write(tmp_path / "labels" / "a.txt", "")
    labels.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    return write(tmp_path / "data.yaml", f"train: images\nnames: [cat, dog]\n{more}")


# ---------------------------------------------------------------------------- nothing that was is lost


@pytest.mark.parametrize("out", ["in/a.json", "in/b.json"])
def test_labels_are_never_overwritten(tmp_path, out):
    source = _labelme(tmp_path, _shape())
    _labelme(tmp_path, _shape(), name="b")
    before = (tmp_path / out).read_bytes()
    with pytest.raises(DataError, match=r"--out .*\.json: is there already, and no COCO json"):
        convert_to_coco("labelme", source, tmp_path / out)
    assert (tmp_path / out).read_bytes() == before


def test_source_is_never_overwritten(tmp_path):
    source = _labelme(tmp_path, _shape()) / "a.json"
    with pytest.raises(DataError, match=r"--out .*: is the SOURCE"):
        convert_to_coco("labelme", source, source)
    convert_to_coco("labelme", source, tmp_path / "data.json")
    convert_to_coco("labelme", source, tmp_path / "data.json")  # the same again


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_nothing_behind(tmp_path, monkeypatch, number):
    source = tmp_path / "data.json"
    convert_to_coco("labelme", _labelme(tmp_path, _shape()), source)
    before = sorted(tmp_path.iterdir())

    def stopped(source, target):
        (target.folder / "half").write_text("")
        os.kill(os.getpid(), number)

    monkeypatch.setitem(convert_from_coco.__globals__["WRITERS"], "yolo", stopped)
    assert main(["--to", "yolo", str(source), "--out", str(tmp_path / "yolo")]) == 128 + number
    assert sorted(tmp_path.iterdir()) == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_exit_codes_of_the_commands_of_data(capsys):
    def full():
        raise OSError(28, "No space left on device", "x")

    assert exit_code_of("name", full) == 2
    assert "name: OSError" in capsys.readouterr().err


# --------------------------------------------------------------------------------- what is not there


def test_missing_and_unnamed_pictures_are_noted(tmp_path):
    source = _labelme(tmp_path, _shape())
    _labelme(tmp_path, _shape(), name="gone", drawn=False)
    picture(source, "unlabelled.png")
    _, builder = convert("labelme", source, tmp_path)
    notes = "\n".join(builder.notes)
    assert f"pictures that are not below {source}: 1 (gone.png)" in notes
    assert "pictures that no label names, which are left out: 1 (unlabelled.png)" in notes


def test_next_command_names_the_folder_that_is_known(tmp_path, capsys):
    source = _labelme(tmp_path, _shape())
    assert main(["labelme", str(source), "--out", str(tmp_path / "data.json")]) == 0
    assert f"--image-root {source}" in capsys.readouterr().out


def test_yolo_labels_without_a_picture_are_noted(tmp_path):
    source = _yolo(tmp_path)
    write(tmp_path / "labels" / "gone.txt", "0 .5 .5 .1 .1\n")
    write(tmp_path / "labels" / "classes.txt", "cat\ndog\n")
    _, builder = convert("yolo", source, tmp_path)
    (note,) = builder.notes
    assert note.startswith("label files whose picture is not there: 1 (")
    assert "gone.txt" in note


def test_masks_without_an_image_are_noted(tmp_path):
    picture(tmp_path / "images", "a.jpg")
    for name in ("a", "gone"):
        picture(tmp_path / "masks", f"{name}.png")
    Image.fromarray(SQUARE).save(tmp_path / "masks" / "a.png")
    content, builder = convert("masks", tmp_path / "masks", tmp_path, images=tmp_path / "images")
    assert len(content["annotations"]) == 1
    assert "masks whose image is not there: 1 (gone.png)" in builder.notes


def test_nothing_left_says_why(tmp_path):
    source = _labelme(tmp_path, _shape(points=[[1, 1], [5, 1], [9, 1]]))
    with pytest.raises(
        DataError, match=r"no object .* Not kept: 1 masks without a pixel: .*a\.json"
    ):
        convert("labelme", source, tmp_path)


def test_box_without_extent_is_not_called_outside(tmp_path):
    source = _labelme(tmp_path, _shape(), _shape(points=[[3, 3], [3, 9]], kind="rectangle"))
    _, builder = convert("labelme", source, tmp_path)
    assert builder.lost.content().keys() == {"boxes without extent"}


def test_classes_that_differ_in_capitals_are_noted(tmp_path):
    content, builder = convert(
        "labelme", _labelme(tmp_path, _shape("Car"), _shape("car")), tmp_path
    )
    assert len(content["categories"]) == 2
    assert "'Car', 'car' are 2 classes here" in builder.notes[0]


# --------------------------------------------------------------------------------- files of each kind


def test_yolo_labels_that_windows_wrote(tmp_path):
    lines = b"\xef\xbb\xbf0 .25 .5 .25 .5\r\n\r\n"
    source = _yolo(tmp_path, lines)
    write(tmp_path / "train.txt", "images\\a.png\r\n")
    write(source, "train: train.txt\nnames: [cat, dog]\n")
    content, _ = convert("yolo", source, tmp_path)
    assert [a["bbox"] for a in content["annotations"]] == [[5, 7.5, 10, 15]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("kpt_shape: [100000000, 3]", "kpt_shape is .*, expected .number up to 1000, 2 or 3."),
        ("kpt_shape: [2, 3]\nflip_idx: ['1', '0']", "flip_idx is .*, expected each of 0"),
        ("kpt_shape: [2, 3]\nkpt_names: [eye, eye]", "kpt_names: a name is there twice"),
        ("kpt_shape: [2, 3]\nkpt_names: [eye, [1]]", r"kpt_names\[1\] is \[1\], expected a text"),
    ],
)
def test_broken_yolo_keypoints(tmp_path, more, message):
    with pytest.raises(DataError, match=message):
        convert("yolo", _yolo(tmp_path, more=more), tmp_path)


def test_voc_part_that_is_no_text_or_names_nothing(tmp_path):
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    xml = f"<annotation><filename>a.png</filename><object><name>x</name>{box}</object></annotation>"
    picture(tmp_path / "voc" / "JPEGImages")
    write(tmp_path / "voc" / "Annotations" / "a.xml", xml)
    file = write(tmp_path / "voc" / "ImageSets" / "Main" / "t.txt", "")
    with pytest.raises(DataError, match=r"t\.txt: none of the 1 xml files is of an image in it"):
        convert("voc", tmp_path / "voc", tmp_path, part="t")
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"t\.txt: cannot be read: 'utf-8'"):
        convert("voc", tmp_path / "voc", tmp_path, part="t")


def test_via_attribute_that_no_region_has(tmp_path):
    region = {"shape_attributes": {"name": "circle", "cx": 9, "cy": 9, "r": 5}}
    region["region_attributes"] = {"kind": "cat"}
    picture(tmp_path)
    source = write(tmp_path / "via.json", {"a": {"filename": "a.png", "regions": [region]}})
    with pytest.raises(DataError, match=r"no region has the attribute 'knd' .* there are kind"):
        convert("via", source, tmp_path, images=tmp_path, class_attribute="knd")


@pytest.mark.parametrize("pattern", ["(?P<class>q?)", "a|(?P<class>q)"])
def test_mask_class_must_not_be_empty(tmp_path, pattern):
    picture(tmp_path / "images", "a.jpg")
    (tmp_path / "masks").mkdir()
    Image.fromarray(SQUARE).save(tmp_path / "masks" / "a.png")
    options = {"images": tmp_path / "images", "class_pattern": pattern}
    with pytest.raises(DataError, match=r"a\.png: --class-pattern .* finds no class in a\.png"):
        convert("masks", tmp_path / "masks", tmp_path, **options)


def test_cvat_names_the_shape_whose_order_is_wrong(tmp_path):
    picture(tmp_path / "images")
    shape = '<polygon label="x" points="1,1;9,1;9,9" z_order="top"/>'
    image = f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">{shape}</image>'
    source = write(tmp_path / "annotations.xml", f"<annotations>{image}</annotations>")
    with pytest.raises(DataError, match=r"image a\.png, polygon 1: z_order is 'top'"):
        convert("cvat", source, tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://[x/a.png", "task 1: its image has no address"),
        ("data:image/png;base64,AAAA", "task 1: its image is within the export"),
    ],
)
def test_label_studio_images_that_are_no_files(tmp_path, address, message):
    task = {"id": 1, "data": {"image": address}, "annotations": [{"result": []}]}
    with pytest.raises(DataError, match=message):
        convert("label-studio", write(tmp_path / "a.json", [task]), tmp_path, images=tmp_path)


def test_size_of_a_turned_picture_says_that_it_is_turned(tmp_path):
    source = _labelme(tmp_path, _shape())
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(source / "a.png", exif=exif)
    with pytest.raises(DataError, match="30 x 40 pixels when its EXIF orientation has turned it"):
        convert("labelme", source, tmp_path)


# ------------------------------------------------------------------------------------------- and back


def _coco(**category) -> dict:
    points = {"keypoints": [6, 7, 2, 9, 9, 2]} if category.get("keypoints") else {}
    entry = {
        "id": 1,
        "image_id": 1,
        "category_id": 0,
        "bbox": [5, 6, 10, 14],
        "iscrowd": 0,
        **points,
    }
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 0, "name": "cat", **category}],
        "annotations": [entry],
    }


@pytest.mark.parametrize("format", ["yolo", "labelme", "voc", "masks"])
@pytest.mark.parametrize(
    ("category", "message"),
    [
        ({"keypoints": ["l", "r"], "flip_map": [["l", "x"]]}, "no keypoint has the name 'x'"),
        ({"keypoints": ["l", "r"], "flip_map": 7}, "its flip_map is 7"),
        ({"keypoints": [["l"], "r"]}, r"the name of keypoint 1 is \['l'\]"),
    ],
)
def test_broken_skeletons_are_one_error(tmp_path, format, category, message):
    source = write(tmp_path / "data.json", _coco(**category))
    with pytest.raises(DataError, match=message):
        convert_from_coco(format, source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.json"]


def test_texts_that_a_format_cannot_hold(tmp_path):
    source = write(tmp_path / "data.json", _coco(name="a\x01b"))
    with pytest.raises(DataError, match=r"'a\\x01b' has characters that xml cannot hold"):
        convert_from_coco("voc", source, tmp_path / "out")
    content = _coco()
    content["images"][0]["file_name"] = "a\0.png"
    with pytest.raises(DataError, match="expected the name of a file below the folder"):
        convert_from_coco("masks", write(source, content), tmp_path / "out")


def test_labelme_keeps_a_description_that_is_no_text(tmp_path):
    content = _coco()
    content["annotations"][0]["attributes"] = {"description": 3}
    content["images"][0]["attributes"] = [1]
    source = write(tmp_path / "data.json", content)
    _, target = convert_from_coco("labelme", source, tmp_path / "out")
    assert target.lost.content().keys() == {"attributes of images that are no object"}
    assert json.loads((tmp_path / "out" / "a.json").read_text())["flags"] == {}
    back, _ = convert_to_coco("labelme", tmp_path / "out", tmp_path / "back.json", Options())
    assert back["annotations"][0]["attributes"] == {"description": 3}
    assert not masks_of(back)
