# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A COCO data set as writers of other formats want it: objects by image, masks as rings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ....coco.read import check_entries, read_coco
from ....coco.rle import rle_box, to_rle
from ....coco.values import is_box
from ....errors import DataError
from ....messages import describe
from ....skeletons import SkeletonSet
from ..geometry import mask_rings
from ..lost import Lost

__all__ = ["CocoObject", "Source", "Target", "file_stem", "outlines"]

Rings = list[tuple[np.ndarray, list[np.ndarray]]]


@dataclass
class CocoObject:
    """An annotation, with its class and image.

    Attributes:
        entry: the annotation.
        label: name of its class.
        keypoints: names of the class's keypoints.
        image: the entry of its image.
        where: file, image and annotation, for messages.
    """

    entry: dict
    label: str
    keypoints: list[str]
    image: dict
    where: str

    @property
    def crowd(self) -> bool:
        return self.entry.get("iscrowd") == 1

    def rle(self) -> dict | None:
        """Its mask; None where it has none.

        Raises:
            DataError: it is damaged.
        """
        if not self.entry.get("segmentation"):
            return None
        try:
            return to_rle(self.entry["segmentation"], self.image["height"], self.image["width"])
        except ValueError as error:
            raise DataError(f"{self.where}: {error}.") from error

    def box(self) -> list[float]:
        """x, y, width, height; that of the mask where none is written."""
        if is_box(self.entry.get("bbox")):
            return list(self.entry["bbox"])
        rle = self.rle()
        return [0.0, 0.0, 0.0, 0.0] if rle is None else rle_box(rle)

    def points(self) -> list[tuple[str, float, float, int]]:
        """Name, x, y, visibility of the keypoints that its class names."""
        flat = self.entry.get("keypoints") or []
        return [
            (name, flat[3 * i], flat[3 * i + 1], int(flat[3 * i + 2]))
            for i, name in enumerate(self.keypoints)
            if 3 * i + 2 < len(flat)
        ]

    def attributes(self) -> dict[str, Any]:
        found = self.entry.get("attributes")
        return dict(found) if isinstance(found, dict) else {}


class Source:
    """A COCO json, checked.

    Raises:
        DataError: it cannot be used; names file and entry.
    """

    def __init__(self, path: Path) -> None:
        content = read_coco(path, annotated=False)
        check_entries(content, str(path))
        self.path = path
        self.categories = sorted(content["categories"], key=lambda c: c["id"])
        self.names = [str(c.get("name", c["id"])) for c in self.categories]
        if len(set(self.names)) < len(self.names):
            raise DataError(f"{path}: two categories have the same name.")
        try:
            SkeletonSet.from_coco_categories(self.categories)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        self.images = content["images"]
        by_id = dict(zip((c["id"] for c in self.categories), zip(self.categories, self.names)))
        images = {image["id"]: image for image in self.images}
        self._objects: dict[Any, list[CocoObject]] = defaultdict(list)
        seen: set[str] = set()
        for image in self.images:
            name = image.get("file_name")
            if not isinstance(name, str) or not name or not _is_inside(name):
                raise DataError(
                    f"{path}: image {describe(image['id'])}: its file_name is {describe(name)}, "
                    "expected the name of a file below the folder of images."
                )
            if file_stem(name) in seen:
                raise DataError(
                    f"{path}: two images have the name {file_stem(name)}, but for suffixes."
                )
            seen.add(file_stem(name))
        for entry in content["annotations"]:
            category, label = by_id[entry["category_id"]]
            image = images[entry["image_id"]]
            names = category.get("keypoints")
            names = [str(n) for n in names] if isinstance(names, list) else []
            where = f"{path}: image {image['file_name']}, annotation {describe(entry.get('id'))}"
            self._objects[image["id"]].append(CocoObject(entry, label, names, image, where))

    def objects(self, image: dict) -> list[CocoObject]:
        return self._objects.get(image["id"], [])


@dataclass
class Target:
    """Where a writer puts its files, and what it could not keep.

    Attributes:
        folder: new; it appears when all files are written.
        images: the folder of the images, None if it was not named.
        final: what the folder will be.
        progress: called with stage, done, total.
    """

    folder: Path
    images: Path | None
    final: Path
    lost: Lost = field(default_factory=Lost)
    notes: list[str] = field(default_factory=list)
    progress: Callable[[str, int, int], None] = lambda *_: None


def file_stem(name: str) -> str:
    """A path below the images, without its suffix."""
    return PurePosixPath(name).with_suffix("").as_posix()


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        not path.is_absolute()
        and ".." not in path.parts
        and not set(name) & {"\\", "\0"}
        and path.name != ""
    )


def outlines(found: CocoObject) -> tuple[list[list[float]] | None, Rings]:
    """The polygons of an object where it has them; else the rings of its mask."""
    segmentation = found.entry.get("segmentation")
    if isinstance(segmentation, list) and segmentation and not isinstance(segmentation[0], dict):
        return [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0], []
    rle = found.rle()
    return None, [] if rle is None else mask_rings(mask_util.decode(rle))
