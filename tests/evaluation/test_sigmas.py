# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Sigmas of simulated annotators, whose own are known."""

import copy
import json

import numpy as np
import pytest

from mrcnn_ext.errors import DataError
from mrcnn_ext.evaluation.sigmas import estimate_sigmas, main
from mrcnn_ext.skeletons import DEFAULT_SIGMA, SkeletonSet

TRUE = (0.03, 0.08, 0.15)


@pytest.fixture
def truth() -> dict:
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [
        {"id": 4, "name": "crane", "keypoints": ["base", "elbow", "hook"]},
        {"id": 7, "name": "ball"},
    ]
    for image in range(1, 301):
        content["images"].append({"id": image, "file_name": "x", "height": 500, "width": 900})
        for place in range(2):
            side = float(rng.uniform(40, 160))
            x, y = 400 * place + float(rng.uniform(0, 200)), float(rng.uniform(0, 300))
            points = [[x + side * rng.random(), y + side * rng.random(), 2] for _ in range(3)]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": 4,
                    "bbox": [x, y, side, side],
                    "area": side * side / 2,
                    "keypoints": [v for p in points for v in p],
                }
            )
    return content


def _annotator(truth: dict, seed: int) -> dict:
    """Another's annotations: d² / s² is sigma² on average, in two dimensions."""
    rng = np.random.default_rng(seed)
    content = copy.deepcopy(truth)
    for entry in content["annotations"]:
        points = np.reshape(entry["keypoints"], (3, 3)).astype(float)
        scale = np.array(TRUE)[:, None] * np.sqrt(entry["area"] / 2)
        points[:, :2] += rng.normal(size=(3, 2)) * scale
        entry["keypoints"] = points.ravel().tolist()
    return content


def _write(folder, *contents) -> list[str]:
    files = []
    for number, content in enumerate(contents):
        files.append(str(folder / f"{number}.json"))
        (folder / f"{number}.json").write_text(json.dumps(content))
    return files


@pytest.mark.parametrize("annotators", [2, 3, 5])
def test_known_sigmas_are_found(truth, tmp_path, annotators):
    files = _write(tmp_path, *(_annotator(truth, seed) for seed in range(annotators)))
    (found,) = estimate_sigmas(files).values()
    for one, expected in zip(found, TRUE):
        assert one.objects == 600
        assert one.value == pytest.approx(expected, rel=0.08)
        assert abs(one.value - expected) < 5 * one.spread
        assert one.spread < 0.06 * expected


def test_objects_are_matched_by_their_boxes_where_ids_differ(truth, tmp_path):
    first, second = _annotator(truth, 1), _annotator(truth, 2)
    by_id = estimate_sigmas(_write(tmp_path, first, second))[4]
    for entry in second["annotations"]:
        entry["id"] += 10_000
        entry["bbox"][0] += 3
    second["annotations"].reverse()
    by_box = estimate_sigmas(_write(tmp_path, first, second))[4]
    assert [one.value for one in by_box] == pytest.approx([one.value for one in by_id])


@pytest.mark.parametrize("renumber", [False, True])
def test_of_many_files_two_are_enough_for_an_object(truth, tmp_path, renumber):
    files = [_annotator(truth, seed) for seed in range(3)]
    for left_out, content in enumerate(files):  # each has two thirds of the objects
        content["annotations"] = [a for a in content["annotations"] if a["id"] % 3 != left_out]
        for entry in content["annotations"] if renumber else ():
            entry["id"] += 1000 * (left_out + 1)
    for sigma, true in zip(estimate_sigmas(_write(tmp_path, *files))[4], TRUE):
        assert sigma.objects == 600
        assert sigma.value == pytest.approx(true, rel=0.1)


def test_a_second_file_of_a_few_objects_is_matched_by_its_ids(truth, tmp_path):
    for entry in truth["annotations"]:  # in boxes that say nothing
        entry["bbox"], entry["area"] = [0.0, 0.0, 100.0, 100.0], 5000.0
    first, second = _annotator(truth, 1), _annotator(truth, 2)
    second["annotations"] = second["annotations"][199::-1]  # another order
    for sigma, true in zip(estimate_sigmas(_write(tmp_path, first, second))[4], TRUE):
        assert sigma.objects == 200
        assert sigma.value == pytest.approx(true, rel=0.2)


def test_ids_that_agree_by_chance_do_not_make_objects_the_same(truth, tmp_path):
    first, second = _annotator(truth, 1), _annotator(truth, 2)
    by_id = estimate_sigmas(_write(tmp_path, first, second))[4]
    # The second annotator began every image with the other object, and numbered from 1, too.
    pairs = zip(second["annotations"][1::2], second["annotations"][0::2])
    second["annotations"] = [entry for pair in pairs for entry in pair]
    for number, entry in enumerate(second["annotations"], 1):
        entry["id"] = number
    found = estimate_sigmas(_write(tmp_path, first, second))[4]
    assert [one.value for one in found] == pytest.approx([one.value for one in by_id])


def test_copies_are_no_second_annotation(truth, tmp_path, capsys):
    files = _write(tmp_path, truth, truth)
    with pytest.raises(DataError, match="'base' of category 4 is at the same place"):
        estimate_sigmas(files)
    assert main([*files, "--output", str(tmp_path / "out.json")]) == 1
    assert not (tmp_path / "out.json").exists()


def test_what_is_not_labelled_by_two_has_no_part(truth, tmp_path):
    first, second = _annotator(truth, 1), _annotator(truth, 2)
    for entry in second["annotations"]:
        entry["keypoints"][2::3] = [2, 0, 0]
    for entry in first["annotations"][1:]:
        entry["keypoints"][2::3] = [0, 2, 0]
    base, elbow, hook = estimate_sigmas(_write(tmp_path, first, second))[4]
    assert (base.objects, elbow.objects, hook.objects) == (1, 0, 0)
    assert elbow.value == hook.value == DEFAULT_SIGMA
    assert np.isnan(hook.spread)


def test_the_command_writes_them_into_a_copy(truth, tmp_path, capsys):
    files = _write(tmp_path, _annotator(truth, 1), _annotator(truth, 2))
    assert main([*files, "--output", str(tmp_path / "out.json")]) == 0
    assert "elbow" in capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    (skeleton,) = SkeletonSet.from_coco_categories(written["categories"]).skeletons
    assert skeleton.sigmas == pytest.approx(TRUE, rel=0.1)
    assert "sigmas" not in written["categories"][1]
    assert main([files[0], "--output", str(tmp_path / "one.json")]) == 0
    assert "every one is the default, 0.05" in capsys.readouterr().out
    (skeleton,) = SkeletonSet.load(tmp_path / "one.json").skeletons
    assert skeleton.sigmas == (DEFAULT_SIGMA,) * 3


def test_files_that_do_not_belong_together(truth, tmp_path, capsys):
    other = copy.deepcopy(truth)
    other["categories"][0]["keypoints"] = ["base", "hook", "elbow"]
    files = _write(tmp_path, truth, other)
    with pytest.raises(DataError, match=r"1\.json: category 4 \('crane'\) has the keypoints"):
        estimate_sigmas(files)
    assert main([str(tmp_path / "no.json")]) == 1
    assert "no.json" in capsys.readouterr().err
