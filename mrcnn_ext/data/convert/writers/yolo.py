# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write YOLO: outlines, or boxes with keypoints, as fractions of the image."""

from __future__ import annotations

import os

import numpy as np
import yaml

from ....errors import DataError
from ....files import write_text
from ....skeletons.names import mirrored_pairs
from ..geometry import keyhole
from .dataset import CocoObject, Source, Target, file_stem, outlines

__all__ = ["write_yolo"]


def write_yolo(source: Source, target: Target) -> None:
    """Write data.yaml and labels/, and links to the images if their folder is known.

    One line an object: holes and further parts are joined to the outline by bridges without width, as
    Ultralytics does with parts. If all classes have the same keypoints, it is a pose data set, whose
    lines have boxes in place of outlines.
    """
    lists = {tuple(c.get("keypoints") or ()) for c in source.categories}
    pose = len(lists) == 1 and lists != {()}
    if len(lists) > 1:
        target.lost.add("skeletons: YOLO knows one for all classes", str(source.path))
    numbers = {name: index for index, name in enumerate(source.names)}
    for done, image in enumerate(source.images, 1):
        lines = []
        for found in source.objects(image):
            values = _values(found, pose, target)
            if values:
                size = np.array([image["width"], image["height"]], dtype=float)
                lines.append(_line(numbers[found.label], values, size, pose))
        name = file_stem(image["file_name"])
        write_text(target.folder / "labels" / f"{name}.txt", "".join(f"{line}\n" for line in lines))
        _link(target, image["file_name"])
        target.progress("images", done, len(source.images))
    content: dict = {"path": ".", "train": "images", "val": "images"}
    if target.images is None:
        target.notes.append("put the images into images/, or name their folder with --images")
    content["names"] = dict(enumerate(source.names))
    if pose:
        (names,) = lists
        place = {name: index for index, name in enumerate(names)}
        flips = list(range(len(names)))
        given = source.categories[0].get("flip_map")
        for a, b in mirrored_pairs(names) if given is None else given:
            flips[place[a]], flips[place[b]] = place[b], place[a]
        content |= {"kpt_shape": [len(names), 3], "flip_idx": flips}
        content["kpt_names"] = {index: list(names) for index in range(len(source.names))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(target.folder / "data.yaml", text)


def _values(found: CocoObject, pose: bool, target: Target) -> list[float]:
    """Pixels: an outline; or the corners of a box, and the keypoints."""
    attributes = found.attributes()
    if attributes:
        target.lost.add("attributes of objects", found.where)
    if found.crowd:
        target.lost.add("crowds: YOLO has no such mark", found.where)
        return []
    if pose:
        if found.entry.get("segmentation"):
            target.lost.add("masks: lines with keypoints have boxes", found.where)
        return [*found.box(), *(v for _, x, y, seen in found.points() for v in (x, y, seen))]
    if any(v for *_, v in found.points()):
        target.lost.add("keypoints", found.where)
    polygons, rings = outlines(found)
    if polygons is None:
        polygons = [keyhole(ring, holes).ravel().tolist() for ring, holes in rings]
    if not polygons:
        return found.box()
    first, *rest = (np.reshape(polygon, (-1, 2)) for polygon in polygons)
    return keyhole(first, rest).ravel().tolist()


def _line(number: int, values: list[float], size: np.ndarray, pose: bool) -> str:
    if pose or len(values) == 4:
        x, y, w, h = values[:4]
        parts = [(x + w / 2) / size[0], (y + h / 2) / size[1], w / size[0], h / size[1]]
        for px, py, seen in np.reshape(values[4:], (-1, 3)):
            parts += [px / size[0], py / size[1], int(seen)]
    else:
        # Fractions outside the image are refused by Ultralytics.
        parts = (np.reshape(values, (-1, 2)) / size).clip(0, 1).ravel().tolist()
    return " ".join([str(number), *(f"{v:.9g}" for v in parts)])


def _link(target: Target, name: str) -> None:
    if target.images is None:
        return
    picture = (target.images / name).resolve()
    if not picture.is_file():
        raise DataError(f"there is no picture {picture}.")
    link = target.folder / "images" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(picture, link)
