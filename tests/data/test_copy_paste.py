# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Copy-paste: its rules against a reference pixel by pixel, and what is drawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.data.augmentation import CopyPaste, Sample
from mrcnn_ext.data.augmentation.copy_paste import paste
from mrcnn_ext.errors import ConfigError, DataError
from tests.data.augmentation_cases import FLIP_INDICES, LEVEL, dense, near, record
from tests.data.test_augmentation import mapper, seeded

SIZE = (40, 50)


def _objects(rng: np.random.Generator, number: int, masked: bool = True) -> list[dict]:
    """Rectangles with a keypoint in each corner pixel and one in the middle."""
    out = []
    for label in range(number):
        (y0, y1), (x0, x1) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in SIZE)
        mask = np.zeros(SIZE, np.uint8)
        mask[y0:y1, x0:x1] = 1
        points = [
            [x0 + 0.5, y0 + 0.5, 2],
            [x1 - 0.5, y1 - 0.5, 1],
            [(x0 + x1) / 2, (y0 + y1) / 2, 2],
        ]
        each = {
            "bbox": np.array([x0, y0, x1, y1], float), "bbox_mode": 0, "category_id": label,
            "keypoints": np.array(points, float),
        }  # fmt: skip
        if masked:
            each["segmentation"] = mask
        out.append(each)
    return out


def _sides(mask: np.ndarray) -> list[int]:
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, 2**31), st.sampled_from([0, 20, 300]), st.sampled_from([0, 3, 10]))
def test_rules_are_those_of_a_reference_pixel_by_pixel(seed, min_area_left, max_box_change):
    rng = np.random.default_rng(seed)
    below, image = (rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(2))
    sample = Sample(below)
    masked, boxed = _objects(rng, 3), _objects(rng, 2, masked=False)
    sample.objects = [*masked, *boxed]
    before = [{k: np.copy(v) for k, v in o.items()} for o in sample.objects]
    pasted = _objects(rng, int(rng.integers(0, 3)))
    paste(sample, image, pasted, min_area_left=min_area_left, max_box_change=max_box_change)

    covered = {(y, x) for o in pasted for y, x in zip(*np.nonzero(o["segmentation"]))}
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            source = image if (y, x) in covered else below
            assert (sample.image[y, x] == source[y, x]).all()
    expected = []
    for each in before:
        box = each["bbox"]
        if "segmentation" in each:
            left = {p for p in zip(*np.nonzero(each["segmentation"])) if p not in covered}
            if not left:
                continue
            rest = np.zeros(SIZE, bool)
            rest[tuple(zip(*left))] = True
            moved = max(abs(a - b) for a, b in zip(_sides(rest), _sides(each["segmentation"])))
            if moved > max_box_change and len(left) <= min_area_left:
                continue
            box = _sides(rest)
        else:
            cells = {
                (y, x) for y in range(int(box[1]), int(box[3]))
                for x in range(int(box[0]), int(box[2]))
            }  # fmt: skip
            rest = cells - covered
            if rest != cells and len(rest) <= min_area_left:
                continue
        points = [
            [x, y, 1 if v == 2 and (int(y), int(x)) in covered else v]
            for x, y, v in each["keypoints"]
        ]
        expected.append((int(each["category_id"]), list(box), points))
    kept = sample.objects[: len(sample.objects) - len(pasted)]
    found = [(o["category_id"], o["bbox"].tolist(), o["keypoints"].tolist()) for o in kept]
    assert found == expected
    for each in kept:
        if "segmentation" in each:
            assert not covered & set(zip(*np.nonzero(each["segmentation"])))
    # What is pasted stays whole.
    assert all(a is b for a, b in zip(sample.objects[len(kept) :], pasted))


@pytest.mark.parametrize("form", ["polygon", "rle"])
@pytest.mark.parametrize("arguments", [{}, {"scale": None}, {"size": [180, 140]}])
def test_the_picture_shows_the_masks(tmp_path, form, arguments):
    records = [record(tmp_path, form, i, (150, 200 - 30 * i)) for i in range(3)]
    # Rests that the rules drop stay in the picture, so none are dropped here.
    arguments = {"min_area_left": 0, **arguments}
    mapped = mapper([["CopyPaste", arguments]], "bitmask", dataset=records)
    numbers, sizes = set(), set()
    for seed in range(10):
        out = seeded(mapped, records[0], seed)
        shown = out["image"].numpy().mean(axis=0) > LEVEL
        instances = out["instances"]
        masks = dense(instances)
        numbers.add(len(instances))
        sizes.add(shown.shape)
        # Black ground between two white objects may be pasted with a rim of grey.
        assert near(shown, masks.any(axis=0), 3)
        assert masks.sum(axis=0).max() <= 1  # of one picture they do not touch
        boxes = instances.gt_masks.get_bounding_boxes().tensor
        assert torch.equal(instances.gt_boxes.tensor, boxes)
    assert len(numbers) >= 2
    assert sizes == {tuple(arguments.get("size", (150, 200)))}


def test_the_same_seed_gives_the_same_sample(tmp_path):
    records = [record(tmp_path, "polygon", i) for i in range(3)]
    entries = [["ScaleJitter", {"size": 160, "scale": [0.5, 2]}], "HorizontalFlip",
               ["CopyPaste", {"scale": None}], ["Rotation", {}], "Colour", "Noise"]  # fmt: skip
    mapped = mapper(entries, "bitmask", dataset=records)
    first, same, other = (seeded(mapped, records[0], seed) for seed in (4, 4, 5))
    assert torch.equal(first["image"], same["image"])
    assert torch.equal(first["instances"].gt_masks.tensor, same["instances"].gt_masks.tensor)
    assert not torch.equal(first["image"], other["image"])
    assert first["file_name"] == records[0]["file_name"]


def test_crowds_and_objects_without_masks_are_not_pasted(tmp_path):
    target, crowd, boxed = (record(tmp_path, form, i) for i, form in enumerate(("rle", "rle", "")))
    for annotation in crowd["annotations"]:
        annotation["iscrowd"] = 1
    for source in (crowd, boxed):
        mapped = mapper([["CopyPaste", {"scale": None}]], "bitmask", dataset=[source])
        for seed in range(4):
            assert len(seeded(mapped, target, seed)["instances"]) == 2


def test_numbers_that_are_pasted(tmp_path):
    records = [record(tmp_path, "rle", i) for i in range(2)]
    empty = {**records[0], "annotations": []}
    for most, expected in ((100, {0, 1, 2}), (1, {0, 1})):
        arguments = {"scale": None, "max_instances": most}
        mapped = mapper([["CopyPaste", arguments]], "bitmask", dataset=records)
        found = {len(seeded(mapped, empty, seed)["instances"]) for seed in range(30)}
        assert found == expected
    mapped = mapper([["CopyPaste", {"probability": 0}]], "bitmask", dataset=records)
    assert {len(seeded(mapped, empty, seed)["instances"]) for seed in range(5)} == {0}


def test_what_is_missing_is_said(tmp_path):
    entry = record(tmp_path, "rle")
    with pytest.raises(
        ConfigError, match=r"let mrcnn_ext\.data\.build_train_loader be dataloader\.train"
    ):
        seeded(mapper(["CopyPaste"], "bitmask"), entry, 0)
    labels = tmp_path / "labels.png"
    cv2.imwrite(str(labels), np.zeros((150, 200), np.uint8))
    entry["sem_seg_file_name"] = str(labels)
    with pytest.raises(DataError, match="has a semantic segmentation, which CopyPaste"):
        seeded(mapper(["CopyPaste"], "bitmask", dataset=[entry]), entry, 0)


def test_pasted_keypoints_follow_their_flip(tmp_path):
    target, source = record(tmp_path, "rle", 0), record(tmp_path, "rle", 1)
    arguments = {"scale": [1, 1], "flip": 1}
    mapped = mapper([["CopyPaste", arguments]], "bitmask", dataset=[source])
    seen = 0
    for seed in range(10):
        instances = seeded(mapped, {**target, "annotations": []}, seed)["instances"]
        if not len(instances):
            continue
        for label, points in zip(instances.gt_classes.tolist(), instances.gt_keypoints.tensor):
            before = np.array(source["annotations"][label]["keypoints"]).reshape(-1, 3)
            before[:, 0] = 200 - before[:, 0]
            assert np.allclose(points.numpy(), before[FLIP_INDICES], atol=1e-3)
            seen += 1
    assert seen


def test_repr_says_what_is_set():
    assert "max_instances=5" in repr(CopyPaste(max_instances=5))
