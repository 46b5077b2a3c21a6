# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The data sets that a config is for: registered, of a json, or of the yaml that data.split writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from ...coco.read import check_entries, differing_classes, read_coco
from ...config.load import load_config
from ...errors import ConfigError, DataError
from ...skeletons import SkeletonSet
from ..configured_datasets import register_datasets
from ..registered import registered_coco
from ..stats import Measured, measure

__all__ = ["Source", "find_source", "measure_all", "slots"]


@dataclass
class Source:
    """
    Attributes:
        names: of the data sets.
        files: json and folder of images of each; None for the folder if it is not known.
        entries: for MRCNN_EXT.DATA.DATASETS; empty where the names are registered elsewhere.
        test: names for DATASETS.TEST that a yaml has.
    """

    names: list[str]
    files: list[tuple[str, str | None]]
    entries: list[list[str]]
    test: list[str]


def find_source(data: str, images: str | None) -> Source:
    """
    Args:
        data: a yaml with DATASETS.TRAIN, a COCO json, or a registered name.
        images: the folder of a json's images.

    Raises:
        ConfigError, DataError: there is no such thing, or a folder is missing; says which.
    """
    if data.endswith((".yaml", ".yml")):
        cfg = load_config(data)
        if not isinstance(cfg, CfgNode) or not cfg.DATASETS.TRAIN:
            raise ConfigError(f"{data}: DATASETS.TRAIN is empty.")
        register_datasets(cfg)
        names, test = list(cfg.DATASETS.TRAIN), list(cfg.DATASETS.TEST)
        used = {*names, *test}
        entries = [list(e) for e in cfg.MRCNN_EXT.DATA.DATASETS if e[0] in used]
        found = [registered_coco(name) for name in names]
        return Source(names, [(f.json_file, f.image_root) for f in found], entries, test)
    if os.path.isfile(data):
        if images is None:
            raise DataError(f"{data}: name the folder of its images with --images.")
        if not os.path.isdir(images):
            raise DataError(f"there is no folder of images {images}.")
        name = "".join(c if c.isalnum() else "_" for c in Path(data).stem)
        entry = [name, os.path.abspath(data), os.path.abspath(images)]
        return Source([name], [(entry[1], entry[2])], [entry], [])
    files = registered_coco(data)
    return Source([data], [(files.json_file, files.image_root)], [], [])


def measure_all(source: Source) -> tuple[Measured, list[dict]]:
    """The measured data sets as one, and their categories.

    Raises:
        DataError: a json cannot be used, or has other classes than the first.
    """
    found: list[Measured] = []
    categories: list[dict] = []
    for path, _ in source.files:
        content = read_coco(path)
        check_entries(content, path)
        found.append(measure(content, path))
        differs = differing_classes(found[0].names, found[-1].names)
        if differs:
            raise DataError(
                f"{path}: its classes are not those of {source.files[0][0]}: {differs}."
            )
        categories = categories or sorted(content["categories"], key=lambda c: c["id"])
    return _joined(found), categories


def _joined(found: Sequence[Measured]) -> Measured:
    if len(found) == 1:
        return found[0]
    starts = np.cumsum([0, *(len(f.image_sizes) for f in found[:-1])])
    fields = ("image_sizes", "label_of", "boxes", "areas", "kind_of", "keypoints", "overlap")
    return Measured(
        names=found[0].names,
        image_of=np.concatenate([f.image_of + start for f, start in zip(found, starts)]),
        **{k: np.concatenate([getattr(f, k) for f in found]) for k in (*fields, "overlap_same")},
        crowds=sum(f.crowds for f in found),
        skeletons=found[0].skeletons,
    )


def slots(categories: list[dict], source: str) -> int:
    """Keypoints of all skeletons together; 0 where no category names any.

    Raises:
        DataError: a category's keypoints contradict themselves; names the file.
    """
    try:
        skeletons = SkeletonSet.from_coco_categories(categories)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    return 0 if skeletons is None else skeletons.num_keypoints
