# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Skeletons, their flat layout, files and metadata."""

import json

import numpy as np
import pytest
from detectron2.data import Metadata
from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import Params

from mrcnn_ext.errors import DataError
from mrcnn_ext.skeletons import (
    COCO_PERSON_NAMES,
    COCO_PERSON_SIGMAS,
    DEFAULT_SIGMA,
    Skeleton,
    SkeletonSet,
)
from mrcnn_ext.skeletons.names import side_of

CRANE = Skeleton("crane", ("base", "left_claw", "right_claw"), (("left_claw", "right_claw"),),
                 (("base", "left_claw"), ("base", "right_claw")), (0.1, 0.2, 0.2))  # fmt: skip
BIRD = Skeleton("bird", ("beak", "tail"))
BOTH = SkeletonSet((CRANE, BIRD), (0, None, 1, 0), ("crane", "ball", "bird", "digger"))


def test_sides_by_names():
    left = ("left_eye", "EyeLeft", "l_eye", "Paw L", "LEFT")
    right = ("right_eye", "EyeRight", "r_eye", "Paw R", "RIGHT")
    neither = ("nose", "collar", "tail", "left_right", "")
    for names, side in ((left, 1), (right, -1), (neither, 0)):
        assert [side_of(name) for name in names] == [side] * 5


def test_edges_have_the_colour_of_their_farther_side():
    metadata = Metadata()
    names = ("neck", "l_hand", "right_hand")
    edges = (("neck", "l_hand"), ("right_hand", "neck"), ("l_hand", "right_hand"))
    SkeletonSet.single(Skeleton("left", names, edges=edges), ["left"]).set_metadata(metadata)
    rules = [color for _, _, color in metadata.keypoint_connection_rules]
    left, right = (255, 153, 51), (0, 204, 102)
    assert rules == [left, right, right]
    both = Metadata()
    BOTH.set_metadata(both)
    assert both.keypoint_connection_rules[0] == ("crane/base", "crane/left_claw", left)


def test_flat_layout():
    assert BOTH.num_keypoints == 5
    assert BOTH.keypoint_names == (
        *("crane/base", "crane/left_claw", "crane/right_claw", "bird/beak", "bird/tail"),
    )
    assert [list(BOTH.slots(c)) for c in range(4)] == [[0, 1, 2], [], [3, 4], [0, 1, 2]]
    assert BOTH.class_keypoints().int().tolist() == [
        [1, 1, 1, 0, 0], [0] * 5, [0, 0, 0, 1, 1], [1, 1, 1, 0, 0],
    ]  # fmt: skip
    assert BOTH.flip_indices == (0, 2, 1, 3, 4)
    assert BOTH.sigmas == (0.1, 0.2, 0.2, DEFAULT_SIGMA, DEFAULT_SIGMA)
    assert CRANE.edge_indices == ((0, 1), (0, 2))
    single = SkeletonSet.single(CRANE, ["a", "b"])
    assert single.keypoint_names == CRANE.keypoint_names  # no prefix for one skeleton
    assert single.class_keypoints().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", ()), r"skeleton 'x': its keypoints are \(\)"),
        (("", ("a",)), "has the name ''"),
        (("x", ("a", "a")), "two keypoints have the name 'a'"),
        (("x", ("a", 3)), "name of keypoint 2 is 3"),
        (
            ("x", ("a", "b"), (("a", "c"),)),
            r"flip_map has the pair \('a', 'c'\), but no keypoint.*'c'",
        ),
        (("x", ("a", "b"), (("a", "a"),)), "with itself"),
        (
            ("x", ("a", "b", "c"), (("a", "b"), ("b", "c"))),
            "pairs the keypoint 'b' with 'a' and again",
        ),
        (("x", ("a", "b"), (), (("a",),)), "edges has"),
        (("x", ("a", "b"), (), (), (0.1,)), "1 sigmas for 2 keypoints"),
        (("x", ("a",), (), (), (0,)), "sigma of keypoint 'a' is 0"),
    ],
)
def test_what_is_no_skeleton(arguments, message):
    with pytest.raises(DataError, match=message):
        Skeleton(*arguments)


def test_what_is_no_set():
    with pytest.raises(DataError, match="at least one"):
        SkeletonSet((), ())
    with pytest.raises(DataError, match="two times the skeleton 'crane'"):
        SkeletonSet((CRANE, CRANE), (0, 1))
    with pytest.raises(DataError, match=r"class 1 \('b'\) has the skeleton number 2"):
        SkeletonSet((CRANE,), (0, 2), ("a", "b"))
    with pytest.raises(DataError, match="1 class names for 2 classes"):
        SkeletonSet((CRANE,), (0, 0), ("a",))
    with pytest.raises(DataError, match="there is no class 4"):
        BOTH.slots(4)


def test_coco_persons_are_detectron2s_and_cocos():
    assert list(COCO_PERSON_NAMES) == list(COCO_PERSON_KEYPOINT_NAMES)
    np.testing.assert_allclose(COCO_PERSON_SIGMAS, Params("keypoints").kpt_oks_sigmas)
    category = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON_NAMES)}
    (person,) = SkeletonSet.from_coco_categories([category]).skeletons
    assert set(person.flip_map) == set(COCO_PERSON_KEYPOINT_FLIP_MAP)
    assert person.sigmas == COCO_PERSON_SIGMAS


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["LeftEye", "RightEye", "nose"], [("LeftEye", "RightEye")]),
        (["l_paw", "r_paw", "tail_l"], [("l_paw", "r_paw")]),
        (["Paw R", "Paw L"], [("Paw R", "Paw L")]),
        (["leg", "ear"], []),  # an l and an r within words
    ],
)
def test_pairs_by_name(names, pairs):
    (skeleton,) = SkeletonSet.from_coco_categories(
        [{"id": 1, "name": "x", "keypoints": names}]
    ).skeletons
    assert list(skeleton.flip_map) == pairs


def test_categories_with_one_skeleton_share_its_slots(tmp_path):
    categories = [
        {"id": 1, "name": "cat", "keypoints": ["head", "tail"], "skeleton": [[1, 2]]},
        {"id": 2, "name": "ball"},
        {"id": 3, "name": "dog", "keypoints": ["head", "tail"], "skeleton": [[1, 2]]},
        {"id": 4, "name": "bird", "keypoints": ["head", "tail"], "sigmas": [0.1, 0.1]},
    ]
    found = SkeletonSet.from_coco_categories(categories)
    assert found.class_skeletons == (0, None, 0, 1)
    assert found.num_keypoints == 4
    assert SkeletonSet.from_coco_categories([{"id": 1, "name": "ball"}]) is None
    (tmp_path / "coco.json").write_text(json.dumps({"categories": categories[::-1]}))
    assert SkeletonSet.load(tmp_path / "coco.json") == found
    with pytest.raises(DataError, match=r"category 'cat': 'skeleton' has \[1, 3\]"):
        SkeletonSet.from_coco_categories([{**categories[0], "skeleton": [[1, 3]]}])


def test_files(tmp_path):
    BOTH.save(tmp_path / "s.json")
    assert SkeletonSet.load(tmp_path / "s.json") == BOTH
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json: is not valid json"):
        SkeletonSet.load(tmp_path / "bad.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"other\.json: is no file of skeletons"):
        SkeletonSet.load(tmp_path / "other.json")
    with pytest.raises(DataError, match=r"no\.json"):
        SkeletonSet.load(tmp_path / "no.json")


def test_metadata():
    metadata = Metadata()
    BOTH.set_metadata(metadata)
    assert SkeletonSet.from_metadata(metadata) == BOTH
    assert metadata.keypoint_names == list(BOTH.keypoint_names)
    plain = Metadata(keypoint_names=["a", "b"], keypoint_flip_map=[("a", "b")], thing_classes=["x"])
    found = SkeletonSet.from_metadata(plain)
    assert found.keypoint_names == ("a", "b")
    assert found.class_skeletons == (0,)
    assert SkeletonSet.from_metadata(Metadata()) is None
    with pytest.raises(DataError, match="flip_map"):
        SkeletonSet.from_metadata(Metadata(keypoint_names=["a"], keypoint_flip_map=[("a", "c")]))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_set_is_laid_out_without_gaps(data):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    skeletons = []
    for number, size in enumerate(sizes):
        names = [f"k{i}" for i in range(size)]
        order = data.draw(st.permutations(names))
        pairs = tuple(zip(order[: size // 2], order[size // 2 :]))[: data.draw(st.integers(0, 2))]
        skeletons.append(Skeleton(f"s{number}", tuple(names), pairs))
    classes = data.draw(
        st.lists(st.one_of(st.none(), st.integers(0, len(sizes) - 1)), min_size=1, max_size=6)
    )
    made = SkeletonSet(tuple(skeletons), tuple(classes))
    assert made.num_keypoints == sum(sizes) == len(made.keypoint_names)
    flip = made.flip_indices
    assert [flip[flip[i]] for i in range(len(flip))] == list(range(len(flip)))
    for class_id, index in enumerate(classes):
        slots = made.slots(class_id)
        assert len(slots) == (0 if index is None else sizes[index])
        assert {flip[s] for s in slots} == set(slots)  # a mirror never mixes skeletons
        assert made.class_keypoints()[class_id].nonzero()[:, 0].tolist() == list(slots)


# ----------------------------------------------------------------------------------------- data sets
