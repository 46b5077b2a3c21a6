# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Ids of images and categories as a COCO json has them, so that predictions can be scored with it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

from ..coco.read import read_json
from ..coco.values import is_id
from ..data.registered import find_coco
from ..errors import DataError
from ..messages import describe, shorten
from .sources import Source

__all__ = ["DatasetIds"]

_Parts = tuple


class DatasetIds:
    """The images and categories of a COCO json.

    Attributes:
        source: the json.
    """

    def __init__(self, dataset: str | os.PathLike) -> None:
        """
        Args:
            dataset: a COCO json (annotations are not needed), or the name of a registered data set.

        Raises:
            DataError: it has no images or categories with ids and names; names the file.
        """
        self.source = find_coco(dataset).json_file
        content = read_json(self.source)
        self._images = self._entries(content, "images", "file_name")
        self._categories = self._entries(content, "categories", "name")

    def _entries(self, content, key: str, name: str) -> list[tuple[int | float | str, str]]:
        """Id and name of each entry of a list."""
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            raise DataError(f"--ids-from {self.source}: has no list '{key}'.")
        found = []
        for index, entry in enumerate(entries):
            fields = entry if isinstance(entry, dict) else {}
            entry_id, text = fields.get("id"), fields.get(name)
            if not is_id(entry_id) or not isinstance(text, str):
                raise DataError(
                    f"--ids-from {self.source}: {key}[{index}] is {describe(entry)}; expected an "
                    f"object with 'id' and '{name}'."
                )
            found.append((entry_id, text))
        return found

    def of_images(self, sources: Sequence[Source]) -> dict[str, int | float | str]:
        """Find the image of each source: the one whose file name is the end of the source's path.

        If there is none, that whose file name ends like it, from the last folder on, if it is the only
        one. Images of the json that are not among the sources do not matter.

        Returns:
            name of the source -> image id.

        Raises:
            DataError: a source is no image, has no entry or several, or shares one; names them.
        """
        ids_of = defaultdict(list)  # by file name
        by_last: dict[str, list[_Parts]] = defaultdict(list)
        for image_id, name in self._images:
            parts = _parts(name)
            if parts not in ids_of:
                by_last[parts[-1]].append(parts)
            ids_of[parts].append(image_id)
        missing, ambiguous, used, found = [], [], defaultdict(list), {}
        for source in sources:
            if source.is_video:
                raise DataError(f"--ids-from: {source.name} is a video; only images have ids.")
            path = _parts(os.path.abspath(source.path))
            entries = _closest(path, by_last.get(path[-1], []))
            ids = [image_id for parts in entries for image_id in ids_of[parts]]
            if len(ids) == 1:
                found[source.name] = ids[0]
                used[ids[0]].append(source.name)
            elif ids:
                ambiguous.append(f"{source.name} (ids {shorten(map(repr, ids), 3)})")
            else:
                missing.append(source.name)
        ambiguous += [
            f"{' and '.join(names[:2])} (id {image_id!r})"
            for image_id, names in used.items()
            if len(names) > 1
        ]
        for names, what in ((missing, "are not in it"), (ambiguous, "are ambiguous")):
            if names:
                raise DataError(
                    f"--ids-from {self.source}: {len(names)} of {len(sources)} inputs {what}, by file "
                    f"name: {shorten(names)}."
                )
        return found

    def of_classes(
        self, number: int | None, names: Sequence[str] | None
    ) -> tuple[list[int | float | str], list[str]]:
        """Find the category of each class of the model.

        Args:
            number: of the model's classes; None if it is not known.
            names: of the model's classes. None takes the categories in the order of their ids, as
                Detectron2 does.

        Returns:
            ids and names of the categories, by class.

        Raises:
            DataError: they do not fit.
        """
        categories = sorted(self._categories, key=lambda c: (isinstance(c[0], str), c[0]))
        its_names = [name for _, name in categories]
        if names is not None:
            missing = [name for name in names if its_names.count(name) != 1]
            if missing:
                raise DataError(
                    f"--ids-from {self.source}: classes of the model that are not among its "
                    f"categories, or several times: {shorten(missing)}; it has {shorten(its_names)}."
                )
            categories = [categories[its_names.index(name)] for name in names]
        elif number is not None and number != len(categories):
            raise DataError(
                f"--ids-from {self.source}: has {len(categories)} categories, but the model has "
                f"{number} classes; say by --classes which they are."
            )
        return [category_id for category_id, _ in categories], [name for _, name in categories]


def _parts(path: str) -> _Parts:
    path = os.path.normpath(path.replace("\\", "/")) if "\\" in path else os.path.normpath(path)
    return tuple(part for part in path.split("/") if part)


def _closest(path: _Parts, entries: list[_Parts]) -> list[_Parts]:
    """The file names that a path ends with, the longest; else those that end as the path does."""
    ends = [parts for parts in entries if path[-len(parts) :] == parts]
    if ends:
        return [max(ends, key=len)]
    most = max((_common_end(path, parts) for parts in entries), default=0)
    return [parts for parts in entries if _common_end(path, parts) == most]


def _common_end(a: _Parts, b: _Parts) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[-1 - count] == b[-1 - count]:
        count += 1
    return count
