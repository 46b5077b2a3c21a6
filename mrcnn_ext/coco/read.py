# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Read json files and COCO annotation files; say clearly why one cannot be used."""

from __future__ import annotations

import json
import os

from detectron2.utils.file_io import PathManager

from ..errors import DataError
from .values import is_box, is_id, is_whole

__all__ = ["check_entries", "read_coco", "read_json"]

_LISTS = ("images", "annotations", "categories")


def read_json(path: str | os.PathLike):
    """The content of a json file; any path that Detectron2's ``PathManager`` opens.

    Raises:
        DataError: it cannot be read or is not valid json; names the file.
    """
    try:
        with PathManager.open(os.fspath(path), "rb") as file:  # json finds the encoding
            return json.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # of json and of unicode; nested too deeply
        raise DataError(
            f"{path}: is not valid json, or not all of it is there: {error}."
        ) from error


def read_coco(path: str | os.PathLike) -> dict:
    """Read a COCO annotation file; its entries may still be anything, see :func:`check_entries`.

    Returns:
        dict with the lists "images", "annotations" and "categories".

    Raises:
        DataError: it cannot be read, or one of the lists is missing; names the file.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        hint = " (detection results have this form)" if isinstance(content, list) else ""
        raise DataError(
            f"{path}: is no COCO data set: it holds a {type(content).__name__}{hint}, expected an "
            f"object with the lists {', '.join(_LISTS)}."
        )
    for key in _LISTS:
        if not isinstance(content.get(key), list):
            what = "is not a list" if key in content else "is missing"
            raise DataError(f"{path}: is no COCO data set: '{key}' {what}.")
    return content


def check_entries(content: dict, source: str) -> None:
    """Refuse a COCO data set that cannot be evaluated on, at its first unusable entry.

    What can be evaluated on may still be wrong: ``python -m mrcnn_ext.data.check`` finds all of it.

    Args:
        content: what :func:`read_coco` returned.
        source: name of the file.

    Raises:
        DataError: names the file and the entry's id.
    """
    images = _check_images(content["images"], source)
    categories = content["categories"]
    if not categories or not all(isinstance(c, dict) and is_id(c.get("id")) for c in categories):
        raise DataError(f"{source}: expected categories with an id each.")
    known = {c["id"] for c in categories}
    if len(known) < len(categories):
        raise DataError(f"{source}: two categories have the same id.")
    for entry in content["annotations"]:
        problem = _annotation_problem(entry, images, known)
        if problem:
            annotation_id = entry.get("id") if isinstance(entry, dict) else entry
            raise DataError(f"{source}: annotation {annotation_id!r}{problem}.")


def _check_images(entries: list, source: str) -> set:
    images = set()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_id(entry.get("id")):
            raise DataError(f"{source}: images[{index}] has no id.")
        if entry["id"] in images:
            raise DataError(f"{source}: two images have the id {entry['id']}.")
        if not all(is_whole(entry.get(key)) and entry[key] > 0 for key in ("height", "width")):
            raise DataError(f"{source}: image {entry['id']} has no height and width.")
        images.add(entry["id"])
    if not images:
        raise DataError(f"{source}: there are no images.")
    if len({isinstance(image_id, str) for image_id in images}) > 1:
        raise DataError(f"{source}: some image ids are numbers and some are not.")
    return images


def _annotation_problem(entry, images: set, categories: set) -> str | None:
    """What makes an annotation unusable; None if nothing does."""
    if not isinstance(entry, dict) or not _among(entry.get("image_id"), images):
        return ": its image_id is not among the images"
    if not _among(entry.get("category_id"), categories):
        return f": its category_id {entry.get('category_id')} is not a category"
    if "bbox" in entry and not is_box(entry["bbox"]):
        return f": bbox {entry['bbox']} is not x, y, width, height"
    if "bbox" not in entry and not entry.get("segmentation"):
        return " has neither bbox nor segmentation"
    return None


def _among(value, known: set) -> bool:
    try:
        return value in known
    except TypeError:  # a list or an object cannot be looked up
        return False
