# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Load COCO jsons with Detectron2, after a look at every entry that it would fail on or drop."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..coco.read import check_entries, read_coco
from ..coco.rle import is_rle_list, text_rle, to_rle
from ..errors import DataError

__all__ = ["check_when_loaded", "load_mended"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

_MARK = "_mrcnn_ext_checked"


def load_mended(path: str, image_root: str, name: str | None) -> list[dict]:
    """``load_coco_json``, with what it drops in a form that it keeps.

    A mask that is a list of RLE becomes their union; iscrowd null becomes 0.

    Raises:
        DataError: an entry cannot be used; names the file, the image and the annotation.
    """
    content = read_coco(path, annotated=False)
    check_entries(content, path, other_images=True)
    if not _mend(content, path):
        return load_coco_json(path, image_root, name)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, os.path.basename(path))
        with open(file, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        return load_coco_json(file, image_root, name)


def _mend(content: dict, path: str) -> bool:
    """Change the annotations in place; return whether there was anything to do."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    changed = False
    for annotation in content["annotations"]:
        if "iscrowd" in annotation and annotation["iscrowd"] is None:
            annotation["iscrowd"], changed = 0, True
        if annotation["image_id"] in sizes and is_rle_list(annotation.get("segmentation")):
            try:
                rle = to_rle(annotation["segmentation"], *sizes[annotation["image_id"]])
            except ValueError as error:
                raise DataError(
                    f"{path}: image {annotation['image_id']!r}, annotation {annotation.get('id')!r}: "
                    f"{error}."
                ) from error
            annotation["segmentation"], changed = text_rle(rle), True
    return changed


def check_when_loaded(names: Iterable[str]) -> None:
    """Put a look at every entry before the loading of jsons that a user registered.

    These are the data sets of ``register_coco_instances`` that were not loaded yet. Detectron2 ends
    with a traceback, or trains on less, where an entry cannot be used. Calling it again changes
    nothing.

    Args:
        names: of data sets.
    """
    for name in names:
        metadata = MetadataCatalog.get(name)
        json_file, load = metadata.get("json_file"), DatasetCatalog[name]
        known = metadata.get("thing_classes") is not None  # built in, loaded, or checked already
        if known or not json_file or metadata.get("evaluator_type") != "coco":
            continue
        if not getattr(load, _MARK, False):
            DatasetCatalog.pop(name)
            DatasetCatalog.register(name, _checked(name, str(json_file), load))


def _checked(name: str, json_file: str, load: Callable[[], list[dict]]) -> Callable:
    def load_checked() -> list[dict]:
        content = read_coco(json_file, annotated=False)
        check_entries(content, json_file, other_images=True)
        dropped = [
            a for a in content["annotations"] if a.get("iscrowd", 0) is None or _lists(a)
        ]  # fmt: skip
        if dropped:
            logger.warning(
                f"'{name}': training drops {len(dropped)} annotations whose iscrowd is null or whose "
                f"mask is a list of RLE (the first: image {dropped[0]['image_id']!r}, annotation "
                f"{dropped[0].get('id')!r} of {json_file}). Name the json in MRCNN_EXT.DATA.DATASETS, "
                "which takes them."
            )
        return load()

    setattr(load_checked, _MARK, True)
    return load_checked


def _lists(annotation: dict) -> bool:
    return is_rle_list(annotation.get("segmentation"))
