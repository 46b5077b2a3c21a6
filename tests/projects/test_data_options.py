# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""projects/DataOptions: its data sets, its configs, a study in small."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path

import pytest

from mrcnn_ext.config.load import load_config
from tests.helpers import REPO, load_script, run_python

PROJECT = REPO / "projects" / "DataOptions"
study = load_script(PROJECT / "study.py")
persons = load_script(PROJECT / "persons.py")
study_data = load_script(PROJECT / "study_data.py")


def _read(overrides) -> dict[str, dict]:
    key, value = overrides
    assert key == "MRCNN_EXT.DATA.DATASETS"
    return {name: json.loads(Path(file).read_text()) for name, file, _ in ast.literal_eval(value)}


@pytest.mark.parametrize("project", [study, persons])
def test_trainings_differ_in_what_they_are_named_after(project):
    configs = project.STUDY.configs
    for file in (f for f in configs.glob("*.yaml") if f.stem != "base"):
        cfg = load_config(str(file))
        assert cfg.MRCNN_EXT.RESUME.EXACT
        assert cfg.INPUT.MAX_SIZE_TRAIN <= 320
        names = [
            entry if isinstance(entry, str) else entry[0]
            for entry in cfg.MRCNN_EXT.DATA.AUGMENTATIONS
        ]
        assert ("ScaleJitter" in names) == (file.stem in ("scale_jitter", "copy_paste"))
        assert ("CopyPaste" in names) == (file.stem == "copy_paste")
        assert (file.stem == "half_boxes") == cfg.MRCNN_EXT.DATA.BOXES_ONLY
        repeated = cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
        assert repeated == (file.stem == "repeat_factor")
    assert {f"{t}.yaml" for t in project.STUDY.trainings} <= {
        f.name for f in configs.glob("*.yaml")
    }


def test_one_class_is_rare_and_every_second_object_has_no_mask(tmp_path):
    annotations = []
    for image in range(20):
        for category in (1, 3, *((2,) if image % 2 else ())):
            annotations.append(
                {"image_id": image, "category_id": category, "iscrowd": 0, "segmentation": [image]}
            )
    annotations.append({"image_id": 0, "category_id": 1, "iscrowd": 1, "segmentation": [0]})
    content = {"images": [{"id": image} for image in range(20)], "annotations": annotations}
    few = study_data._few_images(content)
    rare = [a for a in few["annotations"] if a["category_id"] == study_data.RARE]
    assert len(rare) == study_data.RARE_IMAGES
    assert len(few["images"]) == 10 + study_data.RARE_IMAGES
    half = study_data._half_boxes(few)
    single = [a for a in half["annotations"] if not a["iscrowd"]]
    assert Counter("segmentation" in a for a in single) == {True: 14 + 8, False: 14 + 8}
    assert all("segmentation" in a for a in half["annotations"] if a["iscrowd"])
    assert half["images"] == few["images"]
    assert study_data._half_boxes(few) == half


def test_persons_of_some_images(tmp_path, monkeypatch):
    content = {
        "images": [{"id": i} for i in range(300)],
        "annotations": [
            {"image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": [], "keypoints": [0]}
            for i in range(300)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose"], "skeleton": []}],
    }
    file = tmp_path / "train.json"
    metadata = type("Metadata", (), {"json_file": str(file), "image_root": "images"})
    monkeypatch.setattr(study_data.MetadataCatalog, "get", lambda name: metadata)
    with pytest.raises(study_data.StudyError, match="Set DETECTRON2_DATASETS"):
        study_data.write_person_data(tmp_path)
    file.write_text(json.dumps(content))
    sets = _read(study_data.write_person_data(tmp_path))
    train = sets["mrcnn_ext_study_train"]
    assert [image["id"] for image in train["images"]] == list(range(0, 240, 2))
    assert "keypoints" not in train["categories"][0]
    assert len(sets["mrcnn_ext_study_half_boxes"]["annotations"]) == 120


@pytest.mark.slow
def test_study_in_small(tmp_path):
    done = run_python(
        [
            *(str(PROJECT / "study.py"), "--output", str(tmp_path), "--seeds", "1"),
            *("--iterations", "4", "--jobs", "1", "MODEL.WEIGHTS", "", "INPUT.MIN_SIZE_TEST", "64"),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),  # so that something is found
            *("INPUT.MIN_SIZE_TRAIN", "(64,)"),
        ],
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    values = found["after 4 steps"]["values"]
    assert all("1" in values[row]["bbox/AP"] for row in study.STUDY.rows)
