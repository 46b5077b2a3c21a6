# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Which images of a COCO data set go to which part; what belongs together stays together."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ...coco.values import is_id
from ...errors import DataError
from ...messages import describe
from .assign import assign

__all__ = ["WAYS", "Division", "divide", "group_keys", "same_content"]

WAYS = ("random", "class", "group")
_BLOCK = 1 << 20


@dataclass
class Division:
    """
    Attributes:
        names: of the parts.
        images: ids of each part's images, in the order of the json.
        units: number of groups of images that stay together, single images included.
    """

    names: list[str]
    images: list[list]
    units: int


def divide(
    content: dict,
    shares: dict[str, float],
    *,
    by: str = "random",
    keys: Sequence[Sequence[Hashable]] = (),
    seed: int = 0,
) -> Division:
    """Divide the images of a data set.

    Images of the same file name, or with an equal key, are never in different parts.

    Args:
        content: a COCO data set, checked.
        shares: of the images, by the names of the parts; they add up to 1.
        by: "class" gives each part its share of the images of each class, and of those without
            objects; "random" and "group" look at the number of images alone.
        keys: lists with a key for each image; None for one that is by itself.
        seed: equal seeds divide equal data alike.

    Raises:
        DataError: a part gets no image.
    """
    images = content["images"]
    files = [posixpath.normpath(str(image.get("file_name", image["id"]))) for image in images]
    unit_of = _units([files, *keys])
    sizes = np.bincount(unit_of)
    labels = _labels(content, unit_of, len(sizes)) if by == "class" else np.zeros((len(sizes), 0))
    values = np.array(list(shares.values()), dtype=float)
    parts = assign(sizes, labels, values / values.sum(), np.random.default_rng(seed))
    found: list[list] = [[] for _ in shares]
    for image, unit in zip(images, unit_of):
        found[parts[unit]].append(image["id"])
    for name, ids in zip(shares, found):
        if not ids:
            raise DataError(
                f"the part {name!r} gets no image: there are {len(images)} images in {len(sizes)} "
                f"groups that stay together, and its share is {shares[name]:g}."
            )
    return Division(list(shares), found, len(sizes))


def _units(keys: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """The number of the unit of each image: those that share a key of any list are one."""
    count = len(keys[0])
    rows, columns = [], []
    for values in keys:
        first: dict[Hashable, int] = {}
        for index, key in enumerate(values):
            if key is not None:
                rows.append(index)
                columns.append(first.setdefault(key, index))
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _labels(content: dict, unit_of: np.ndarray, units: int) -> np.ndarray:
    """(units, classes + 1) images with each class, and without objects."""
    place = {image["id"]: index for index, image in enumerate(content["images"])}
    column = {category["id"]: index for index, category in enumerate(content["categories"])}
    shown = np.zeros((len(place), len(column) + 1), dtype=np.int64)
    for annotation in content["annotations"]:
        shown[place[annotation["image_id"]], column[annotation["category_id"]]] = 1
    shown[:, -1] = ~shown.any(axis=1)
    labels = np.zeros((units, shown.shape[1]), dtype=np.int64)
    np.add.at(labels, unit_of, shown)
    return labels


def group_keys(content: dict, key: str, source: str) -> list[Hashable]:
    """The group of each image.

    Args:
        content: a COCO data set.
        key: "folder", that of file_name; "file=REGEX", its group 1, or all that matches; or
            "attribute=NAME", of the image's entry or its "attributes".
        source: names the file in messages.

    Raises:
        DataError: the key is none of these, or an image has no such group.
    """
    kind, _, value = key.partition("=")
    images = content["images"]
    names = [str(image.get("file_name", "")) for image in images]
    if key == "folder":
        return [posixpath.dirname(name) for name in names]
    if kind == "file" and value:
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise DataError(f"--group-key {key}: {error}.") from error
        found: list[Hashable] = []
        for name in names:
            match = pattern.search(name)
            group = match and (match[1] if pattern.groups else match[0])
            if group is None:
                raise DataError(f"{source}: --group-key {key} does not match the image {name}.")
            found.append(group)
        return found
    if kind == "attribute" and value:
        found = []
        for image, name in zip(images, names):
            attributes = image.get("attributes")
            inner = attributes.get(value) if isinstance(attributes, dict) else None
            group = image.get(value, inner)
            if not is_id(group):
                raise DataError(
                    f"{source}: image {name}: its {value!r} is {describe(group)}, expected a text or "
                    "number as its group."
                )
            found.append(group)
        return found
    raise DataError(
        f"--group-key is {key!r}; expected folder, file=REGEX or attribute=NAME (such as video)."
    )


def same_content(content: dict, root: str | os.PathLike) -> tuple[list[Hashable], int]:
    """A key for each image that is equal for files of equal content, and the number of such files.

    Files of a size that no other has are not read. Missing files have no key.
    """
    paths = [os.path.join(root, str(image.get("file_name", ""))) for image in content["images"]]
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        if os.path.isfile(path):
            by_size[os.path.getsize(path)].append(index)
    keys: list[Hashable] = [None] * len(paths)
    for indices in by_size.values():
        for index in indices if len(indices) > 1 else ():
            digest = hashlib.sha256()
            with open(paths[index], "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
            keys[index] = digest.hexdigest()
    counts = Counter(key for key in keys if key is not None)
    return keys, sum(count for count in counts.values() if count > 1)
