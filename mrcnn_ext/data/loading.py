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
from detectron2.utils.file_io import PathManager

from ..coco.read import check_entries, encoding_problem, missing_masks, read_coco
from ..coco.rle import is_rle_list, rle_runs, text_rle, to_rle
from ..coco.values import is_id
from ..errors import DataError
from ..messages import describe

__all__ = ["boxes_only_needed", "check_masks_of_tests", "check_when_loaded", "load_mended"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

_MARK = "_mrcnn_ext_checked"


def load_mended(path: str, image_root: str, name: str | None) -> list[dict]:
    """``load_coco_json``, with what it drops in a form that it keeps.

    A mask that is a list of RLE becomes their union; iscrowd null becomes 0.

    Raises:
        DataError: an entry cannot be used; names the file, the image and the annotation.
    """
    content = _read_checked(path)
    if not _mend(content, path):
        return load_coco_json(path, image_root, name)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, os.path.basename(path))
        with open(file, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        return load_coco_json(file, image_root, name)


def _read_checked(path: str) -> dict:
    """Read a COCO json of which Detectron2 can use every entry.

    Raises:
        DataError: names the file, the image and the annotation.
    """
    content = read_coco(path, annotated=False)
    problem = encoding_problem(path)
    if problem:
        raise DataError(f"{path}: {problem}.")
    check_entries(content, path, other_images=True)
    for category in content["categories"]:
        if not isinstance(category.get("name"), (str, int, float)):
            raise DataError(
                f"{path}: category {describe(category['id'])}: its name is "
                f"{describe(category.get('name'))}, expected a text."
            )
    for image in content["images"]:
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise DataError(
                f"{path}: image {describe(image['id'])}: its file_name is "
                f"{describe(image.get('file_name'))}, expected a text."
            )
    listed = {image["id"] for image in content["images"]}
    seen: set[int | float | str] = set()
    for annotation in content["annotations"]:
        problem = _unloadable(annotation, listed, seen)
        if problem:
            ids = (describe(annotation.get(key)) for key in ("image_id", "id"))
            raise DataError("{}: image {}, annotation {}: {}.".format(path, *ids, problem))
        seen.add(annotation["id"])
    return content


def _unloadable(annotation: dict, images: set, seen: set) -> str:
    """Why Detectron2 would end with an error, now or in a training step; or ""."""
    number, image_id = annotation.get("id"), annotation.get("image_id")
    if not is_id(number) or not is_id(image_id):
        return "expected a number or a text as its id, and as its image_id"
    if number in seen:
        return "another annotation has this id"
    masks = annotation.get("segmentation") or ()
    if image_id in images and isinstance(masks, dict):
        masks = [masks]
    elif image_id not in images or not is_rle_list(masks):
        return ""
    try:
        for rle in masks:
            rle_runs(rle)
    except ValueError as error:
        return f"its mask is damaged: {error}"
    return ""


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
                    f"{path}: image {describe(annotation['image_id'])}, annotation "
                    f"{describe(annotation.get('id'))}: {error}."
                ) from error
            annotation["segmentation"], changed = text_rle(rle), True
    return changed


def check_when_loaded(
    names: Iterable[str], *, with_masks: bool, need_objects: bool = False
) -> None:
    """Put a look at every entry behind the loading of users' COCO jsons.

    Detectron2 ends with a traceback, or trains on less, where an entry cannot be used. Data sets that
    are built in, or were loaded by ``register_coco_instances`` before, are left as they are.

    Args:
        names: of data sets.
        with_masks: all objects must have a mask.
        need_objects: each data set must have objects to train on.
    """
    for name in names:
        metadata = MetadataCatalog.get(name)
        mended = metadata.get("mrcnn_ext_mended", False)
        known = metadata.get("thing_classes") is not None and not mended
        json_file = metadata.get("json_file")
        if known or not json_file or metadata.get("evaluator_type") != "coco":
            continue
        load = getattr(DatasetCatalog[name], _MARK, DatasetCatalog[name])
        DatasetCatalog.pop(name)
        checked = _checked(
            name, str(json_file), load, not mended, with_masks=with_masks, need_objects=need_objects
        )
        DatasetCatalog.register(name, checked)


def _checked(
    name: str,
    json_file: str,
    load: Callable[[], list[dict]],
    entries: bool,
    *,
    with_masks: bool,
    need_objects: bool,
) -> Callable[[], list[dict]]:
    def load_checked() -> list[dict]:
        if entries:
            _check_json(name, json_file)
        dicts = load()
        if need_objects and not any(_objects(record) for record in dicts):
            number = sum(len(record["annotations"]) for record in dicts)
            raise DataError(
                f"{json_file} ('{name}') has no object to train on: its {len(dicts)} images have "
                f"{number} annotations that Detectron2 takes, none of them with iscrowd 0. python -m "
                "mrcnn_ext.data.check says why."
            )
        if with_masks:
            _check_masks(json_file, dicts)
        return dicts

    setattr(load_checked, _MARK, load)
    return load_checked


def _check_json(name: str, json_file: str) -> None:
    content = _read_checked(json_file)
    dropped = [
        a
        for a in content["annotations"]
        if a.get("iscrowd", 0) is None or is_rle_list(a.get("segmentation"))
    ]
    if dropped:
        logger.warning(
            f"'{name}': training drops {len(dropped)} annotations whose iscrowd is null or whose mask "
            f"is a list of RLE (the first: image {describe(dropped[0].get('image_id'))}, annotation "
            f"{describe(dropped[0].get('id'))} of {json_file}). Name the json in "
            "MRCNN_EXT.DATA.DATASETS, which takes them."
        )


def _check_masks(json_file: str, dicts: list[dict]) -> None:
    for record in dicts:
        objects = _objects(record)
        without = sum("segmentation" not in a for a in objects)
        if without:
            raise DataError(
                f"{json_file}: image {describe(record['image_id'])} ({record['file_name']}): "
                f"{without} of its {len(objects)} objects have no segmentation; training with "
                "masks (MODEL.MASK_ON) needs one of each, or MRCNN_EXT.DATA.BOXES_ONLY True with a "
                "mask head of this package. python -m mrcnn_ext.data.check says which annotations."
            )


def _objects(record: dict) -> list[dict]:
    """What Detectron2 trains on."""
    return [a for a in record["annotations"] if a.get("iscrowd", 0) == 0]


def check_masks_of_tests(names: Iterable[str], advice: str = "") -> None:
    """Evaluation needs all masks; without this look it would end with an error after hours.

    Args:
        names: of data sets; those that are not COCO's are passed over.
        advice: what to do about it, instead of what a yaml config does.

    Raises:
        DataError: an object has none; names the file and the annotation.
    """
    for name in names:
        metadata = MetadataCatalog.get(name)
        json_file = metadata.get("json_file")
        if metadata.get("evaluator_type") != "coco" or not json_file:
            continue
        if not PathManager.isfile(str(json_file)):  # which loading it says
            continue
        problem = missing_masks(read_coco(json_file, annotated=False)["annotations"])
        if problem:
            raise DataError(boxes_only_needed(json_file, name, problem, advice))


def boxes_only_needed(source, name: str, problem: str, advice: str = "") -> str:
    """The message about a test set that lacks masks.

    Args:
        source: its json.
        name: of the data set.
        problem: what :func:`~mrcnn_ext.coco.read.missing_masks` says.
        advice: see :func:`check_masks_of_tests`.
    """
    advice = advice or (
        "Set MRCNN_EXT.DATA.BOXES_ONLY to True, so that masks are evaluated without these objects, or "
        "name a set in which every object has a mask."
    )
    return f"{source} (test set '{name}'): {problem}. {advice}"
