# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The studies' data sets: few images of the built-in pose set, one class in fewer; few of persons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog

from mrcnn_ext.compare.paired_study import StudyError
from mrcnn_ext.data.shapes import ShapesSpec, generate_shapes
from mrcnn_ext.files import write_json

__all__ = ["write_data", "write_person_data"]

RARE = 2  # category id of "crane"
COMMON_IMAGES, RARE_IMAGES = 72, 8
PERSON_IMAGES = 120
_TAKEN_FROM = {"train": 600, "val": 100}  # generated images


def write_data(folder: Path) -> tuple[str, ...]:
    """Write ``train.json``, ``half_boxes.json`` and ``val.json``, the same ones for equal arguments.

    Returns:
        config overrides that register the sets.
    """
    sets = {}
    for split, number in _TAKEN_FROM.items():
        source = generate_shapes(ShapesSpec(split, number, kind="pose"))
        content = _without_keypoints(json.loads(source.read_text(encoding="utf-8")))
        if split == "train":
            content = _few_images(content)
            sets["half_boxes"] = _half_boxes(content), source
        sets[split] = content, source
    return _write(folder, {name: (c, file.parent / "images") for name, (c, file) in sets.items()})


def write_person_data(folder: Path) -> tuple[str, ...]:
    """Write ``train.json`` and ``half_boxes.json``, some images of keypoints_coco_2017_train.

    Raises:
        StudyError: its json is not where Detectron2 expects it.
    """
    metadata = MetadataCatalog.get("keypoints_coco_2017_train")
    file = Path(metadata.json_file)
    if not file.is_file():
        raise StudyError(
            f"There is no {file}. Set DETECTRON2_DATASETS to the folder that holds "
            "coco/annotations and coco/train2017 (Detectron2's datasets/README.md)."
        )
    content = _without_keypoints(json.loads(file.read_text(encoding="utf-8")))
    every = max(len(content["images"]) // PERSON_IMAGES, 1)
    kept = content["images"][::every][:PERSON_IMAGES]
    content = _only(content, kept)
    sets = {"train": content, "half_boxes": _half_boxes(content)}
    images = Path(metadata.image_root)
    return _write(folder, {name: (content, images) for name, content in sets.items()})


def _write(folder: Path, sets: dict[str, tuple[dict, Path]]) -> tuple[str, ...]:
    entries = []
    for name, (content, images) in sets.items():
        file = folder / "data" / f"{name}.json"
        write_json(file, content)
        entries.append([f"mrcnn_ext_study_{name}", str(file), str(images)])
    return "MRCNN_EXT.DATA.DATASETS", repr(entries)


def _without_keypoints(content: dict) -> dict:
    """The study is about boxes and masks."""
    unused = ("keypoints", "num_keypoints", "skeleton")
    for key in ("annotations", "categories"):
        content[key] = [
            {name: value for name, value in entry.items() if name not in unused}
            for entry in content[key]
        ]
    return content


def _few_images(content: dict) -> dict:
    """The first images without the rare class, and fewer with it."""
    with_rare = {a["image_id"] for a in content["annotations"] if a["category_id"] == RARE}
    common = [image for image in content["images"] if image["id"] not in with_rare]
    rare = [image for image in content["images"] if image["id"] in with_rare]
    return _only(content, common[:COMMON_IMAGES] + rare[:RARE_IMAGES])


def _only(content: dict, kept: list[dict]) -> dict:
    ids = {image["id"] for image in kept}
    annotations = [a for a in content["annotations"] if a["image_id"] in ids]
    return {**content, "images": kept, "annotations": annotations}


def _half_boxes(content: dict) -> dict:
    """The same without the masks of every second object, drawn at random. Crowds keep theirs."""
    single = [i for i, entry in enumerate(content["annotations"]) if not entry["iscrowd"]]
    without = set(np.random.default_rng(0).permutation(single)[: len(single) // 2].tolist())
    annotations = [
        {
            name: value
            for name, value in entry.items()
            if index not in without or name != "segmentation"
        }
        for index, entry in enumerate(content["annotations"])
    ]
    return {**content, "annotations": annotations}
