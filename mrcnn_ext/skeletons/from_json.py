# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Skeletons as json: this package's own files, and the categories of a COCO json."""

from __future__ import annotations

import json
import os

from detectron2.utils.file_io import PathManager

from ..coco.read import read_json
from ..errors import DataError
from .names import COCO_PERSON_NAMES, COCO_PERSON_SIGMAS, mirrored_pairs

__all__ = ["category_skeleton", "read_skeletons", "skeletons_content", "write_skeletons"]


def category_skeleton(category: dict) -> dict | None:
    """Arguments of ``Skeleton`` from a category of a COCO json; None if it has no keypoints.

    Raises:
        DataError: something does not fit; names category and keypoint.
    """
    names = category.get("keypoints")
    if not names:
        return None
    name = str(category.get("name", category.get("id")))
    where = f"category '{name}'"
    if not isinstance(names, list):
        raise DataError(f"{where}: 'keypoints' is {names!r}; expected a list of names.")
    flip_map = category.get("flip_map", category.get("keypoint_flip_map"))
    sigmas = category.get("sigmas")
    if sigmas is None:
        sigmas = COCO_PERSON_SIGMAS if tuple(names) == COCO_PERSON_NAMES else ()
    return {
        "name": name,
        "keypoint_names": names,
        "flip_map": mirrored_pairs(names) if flip_map is None else flip_map,
        "edges": _edges(where, category.get("skeleton") or [], names),
        "sigmas": sigmas,
    }


def _edges(where: str, skeleton, names: list[str]) -> list[tuple[str, str]]:
    if not isinstance(skeleton, list):
        raise DataError(
            f"{where}: 'skeleton' is {skeleton!r}; expected pairs of keypoint numbers, from 1."
        )
    edges = []
    for pair in skeleton:
        ends = pair if isinstance(pair, list) else [pair]
        inside = all(type(end) is int and 1 <= end <= len(names) for end in ends)
        if len(ends) != 2 or not inside:
            raise DataError(
                f"{where}: 'skeleton' has {pair!r}; expected a pair of keypoint numbers from 1 to "
                f"{len(names)}."
            )
        edges.append((names[ends[0] - 1], names[ends[1] - 1]))
    return edges


def skeletons_content(skeletons, class_skeletons, class_names) -> dict:
    """What the json of a ``SkeletonSet`` holds."""
    return {
        "classes": [
            {"name": name, "skeleton": None if index is None else skeletons[index].name}
            for name, index in zip(class_names, class_skeletons)
        ],
        "skeletons": [
            {
                "name": skeleton.name,
                "keypoints": list(skeleton.keypoint_names),
                "flip_map": [list(pair) for pair in skeleton.flip_map],
                "edges": [list(pair) for pair in skeleton.edges],
                "sigmas": list(skeleton.sigmas),
            }
            for skeleton in skeletons
        ],
    }


def write_skeletons(path: str | os.PathLike, content: dict) -> None:
    with PathManager.open(os.fspath(path), "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def read_skeletons(path: str | os.PathLike) -> dict:
    """A file of skeletons.

    Returns:
        dict with "skeletons" (arguments of ``Skeleton``), "class_skeletons" and "class_names"; or
        with "categories", if it is a COCO json.

    Raises:
        DataError: the file cannot be read, or is no such file; names the file.
    """
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("categories"), list):
        return {"categories": content["categories"]}
    if not isinstance(content, dict) or not {"classes", "skeletons"} <= content.keys():
        raise DataError(
            f"{path}: is no file of skeletons; expected 'classes' and 'skeletons', or the "
            "'categories' of a COCO json."
        )
    entries = [_entry(path, entry) for entry in content["skeletons"]]
    index = {entry["name"]: i for i, entry in enumerate(entries)}
    of_class, names = [], []
    for entry in content["classes"]:
        wanted = entry.get("skeleton") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or "name" not in entry:
            raise DataError(
                f"{path}: 'classes' has {entry!r}; expected an object with 'name' and 'skeleton'."
            )
        if wanted is not None and wanted not in index:
            raise DataError(
                f"{path}: class '{entry['name']}' has the skeleton {wanted!r}; expected one of "
                f"{', '.join(index)}, or null for a class without keypoints."
            )
        of_class.append(None if wanted is None else index[wanted])
        names.append(entry["name"])
    return {"skeletons": entries, "class_skeletons": of_class, "class_names": names}


def _entry(path, entry) -> dict:
    if not isinstance(entry, dict) or not {"name", "keypoints"} <= entry.keys():
        raise DataError(
            f"{path}: 'skeletons' has {entry!r}; expected an object with 'name' and 'keypoints'."
        )
    flip_map = entry.get("flip_map")
    if flip_map is None:
        flip_map = mirrored_pairs(entry["keypoints"])
    return {
        "name": entry["name"],
        "keypoint_names": entry["keypoints"],
        "flip_map": flip_map,
        "edges": entry.get("edges", []),
        "sigmas": entry.get("sigmas", []),
    }
