# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.config.load import load_config
from mrcnn_ext.data.split import assign, divide, group_keys
from mrcnn_ext.data.split.__main__ import main
from mrcnn_ext.errors import DataError


def _content(labels: list[list[int]], names: list[str] | None = None, classes: int = 3) -> dict:
    """An image for each list of classes."""
    names = names or [f"{i:03d}.png" for i in range(len(labels))]
    size = {"height": 10, "width": 10}
    found = [(i, c) for i, row in enumerate(labels) for c in row]
    return {
        "info": {"year": 2026},
        "images": [{"id": 10 + i, "file_name": n, **size} for i, n in enumerate(names)],
        "categories": [{"id": 5 + c, "name": f"class {c}"} for c in range(classes)],
        "annotations": [
            {"id": k, "image_id": 10 + i, "category_id": 5 + c, "bbox": [1, 1, 3, 3]}
            for k, (i, c) in enumerate(found)
        ],
    }


ROWS = st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=6, max_size=40)


@given(ROWS, st.sampled_from(["random", "class", "group"]), st.integers(0, 9), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_parts_partition_the_images_and_divide_no_group(rows, by, seed, groups):
    content = _content(rows)
    keys = [f"group {i * 7 % groups}" for i in range(len(rows))]
    division = divide(content, {"a": 0.5, "b": 0.5}, by=by, keys=[keys], seed=seed)
    ids = [i for part in division.images for i in part]
    assert sorted(ids) == [i["id"] for i in content["images"]]
    group_of = {image["id"]: key for image, key in zip(content["images"], keys)}
    first, second = ({group_of[i] for i in part} for part in division.images)
    assert not first & second
    again = divide(content, {"a": 0.5, "b": 0.5}, by=by, keys=[keys], seed=seed)
    assert division == again


@given(ROWS, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_random_parts_have_their_shares(rows, seed):
    division = divide(_content(rows), {"a": 0.5, "b": 0.3, "c": 0.2}, seed=seed)
    for ids, share in zip(division.images, (0.5, 0.3, 0.2)):
        assert abs(len(ids) - share * len(rows)) <= 1


def test_seeds_differ():
    content = _content([[0]] * 40)
    first, second = (divide(content, {"a": 0.5, "b": 0.5}, seed=s).images for s in (1, 2))
    assert first != second


def test_rare_classes_get_their_share():
    """10 of 200 images show class 2, half of them with class 0: 80 : 20 is 8 : 2, whatever the seed."""
    rows = [[0]] * 100 + [[1]] * 60 + [[0, 2]] * 5 + [[2]] * 5 + [[]] * 30
    content = _content(rows)
    rare = {10 + i for i, row in enumerate(rows) if 2 in row}
    empty = {10 + i for i, row in enumerate(rows) if not row}
    for seed in range(5):
        train, val = divide(content, {"train": 0.8, "val": 0.2}, by="class", seed=seed).images
        assert (len(rare & set(train)), len(rare & set(val))) == (8, 2)
        assert (len(empty & set(train)), len(empty & set(val))) == (24, 6)
        assert len(train) == pytest.approx(160, abs=1)


def test_groups_are_stratified_with_their_number_of_images():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 12, 60)
    labels = np.stack([sizes * (rng.random(60) < 0.3), sizes * (rng.random(60) < 0.1)], axis=1)
    parts = assign(sizes, labels, np.array([0.75, 0.25]), np.random.default_rng(3))
    for column in (sizes, *labels.T):
        assert column[parts == 1].sum() / column.sum() == pytest.approx(0.25, abs=0.08)


def test_images_of_one_file_stay_together():
    content = _content([[0]] * 6, ["a.png", "./a.png", "b.png", "c.png", "x/../b.png", "d.png"])
    for seed in range(8):
        parts = divide(content, {"a": 0.5, "b": 0.5}, seed=seed).images
        for pair in ((10, 11), (12, 14)):
            assert any(set(pair) <= set(part) for part in parts)


def test_group_keys():
    content = _content([[0]] * 3, ["v1/a_1.png", "v1/a_2.png", "v2/b_1.png"])
    assert group_keys(content, "folder", "x") == ["v1", "v1", "v2"]
    assert group_keys(content, r"file=/(.)_", "x") == ["a", "a", "b"]
    assert group_keys(content, r"file=v\d", "x") == ["v1", "v1", "v2"]
    for image, place in zip(content["images"], "pqq"):
        image["attributes"] = {"place": place}
    assert group_keys(content, "attribute=place", "x") == ["p", "q", "q"]
    for key, message in [
        ("file=b", "does not match the image v1/a_1.png"),
        ("file=(", "unterminated"),
        ("attribute=night", "its 'night' is None"),
        ("video", "expected folder, file=REGEX or attribute=NAME"),
    ]:
        with pytest.raises(DataError, match=message):
            group_keys(content, key, "x.json")


def test_part_without_images_is_an_error():
    with pytest.raises(DataError, match="'val' gets no image: there are 3 images in 1 groups"):
        divide(_content([[0]] * 3), {"train": 0.8, "val": 0.2}, keys=[["same"] * 3])


# --------------------------------------------------------------------------------------- command


def test_command_writes_parts_and_a_config(tmp_path, capsys):
    data = tmp_path / "my data.json"
    content = _content([[0], [1], [0, 1]] * 10 + [[2]])
    data.write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    for name in ("000.png", "001.png"):  # two pictures of the same content
        (tmp_path / "images" / name).write_bytes(b"same")
    out = tmp_path / "parts"
    command = [str(data), "--images", str(tmp_path / "images"), "--out", str(out)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "2 images have the content of another one" in text
    assert "warning: val has no object of class 2" in text
    train, val = (json.loads((out / f"{n}.json").read_text()) for n in ("train", "val"))
    assert len(train["images"]) + len(val["images"]) == 31
    assert train["info"] == content["info"]
    assert train["categories"] == val["categories"] == content["categories"]
    assert len(train["annotations"]) + len(val["annotations"]) == len(content["annotations"])
    cfg = load_config(out / "split.yaml")
    assert (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) == ("my_data_train", "my_data_val")
    assert cfg.MRCNN_EXT.DATA.DATASETS[0] == [
        "my_data_train", str(out / "train.json"), str(tmp_path / "images"),
    ]  # fmt: skip
    assert main([*command, "--strict"]) == 1


def test_command_writes_folds(tmp_path):
    data = tmp_path / "data.json"
    data.write_text(json.dumps(_content([[0], [1]] * 9)))
    assert main([str(data), "--folds", "3", "--by", "class"]) == 0
    out = tmp_path / "data_split"
    tested = []
    for fold in (1, 2, 3):
        train, val = (
            {i["id"] for i in json.loads((out / f"fold{fold}_{n}.json").read_text())["images"]}
            for n in ("train", "val")
        )
        assert not train & val
        assert len(train | val) == 18
        tested += sorted(val)
        assert (f"data_fold{fold}_val",) == load_config(out / f"fold{fold}.yaml").DATASETS.TEST
    assert sorted(tested) == list(range(10, 28))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "train=.8", "val=.3"], "the shares add up to 1.1"),
        (["--parts", "train=much"], "--parts has 'train=much'"),
        (["--images", "/nowhere"], "there is no folder of images"),
        (["--group-key", "x"], "--group-key is 'x'"),
    ],
)
def test_command_with_bad_arguments(tmp_path, capsys, arguments, message):
    data = tmp_path / "data.json"
    data.write_text(json.dumps(_content([[0]] * 5)))
    assert main([str(data), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["data.json"]


def test_the_data_set_itself_is_never_overwritten(tmp_path, capsys):
    data = tmp_path / "train.json"
    data.write_text(json.dumps(_content([[0]] * 10)))
    before = data.read_bytes()
    assert main([str(data), "--out", str(tmp_path)]) == 2
    assert "train.json is the data set itself; name another folder" in capsys.readouterr().err
    assert data.read_bytes() == before


def test_class_names_are_no_markup(tmp_path, capsys):
    data = tmp_path / "data.json"
    data.write_text(json.dumps(_content([[0], [1]] * 5, classes=2)).replace("class 1", "[/x]"))
    assert main([str(data)]) == 0
    assert "[/x]" in capsys.readouterr().out


def test_group_that_takes_no_part_in_the_match_is_an_error():
    content = _content([[0]] * 2, names=["video1_1.png", "still.png"])
    with pytest.raises(DataError, match=r"does not match the image still\.png"):
        group_keys(content, r"file=(video\d+)_|still", "data.json")


def test_folds_and_parts_are_one_or_the_other(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data.json", "--folds", "2", "--parts", "train=.5", "val=.5"])
    assert "--folds and --parts: give one of them" in capsys.readouterr().err
