# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find the images that annotation files name, and their sizes as Detectron2 reads them."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image

from ...errors import DataError
from ...messages import shorten
from ..pictures import upright_size

__all__ = ["PICTURES", "ImageFolder"]

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".ppm"}
PICTURES |= {".pgm"}


class ImageFolder:
    """The pictures below a folder.

    Args:
        root: the folder; None: images are not looked for, and files must state their sizes.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, root: str | os.PathLike | None) -> None:
        if root is not None and not os.path.isdir(root):
            raise DataError(f"there is no folder of images {root}.")
        self.root = None if root is None else Path(root)
        self.missing: list[str] = []
        self._by_name: dict[str, list[str]] | None = None
        self._by_stem: dict[str, list[str]] = defaultdict(list)

    def all(self) -> list[str]:
        """Paths of all pictures, relative to the root, sorted."""
        return sorted(path for paths in self._index().values() for path in paths)

    def find(self, name: str) -> str | None:
        """Path of a picture relative to the root: as it is named, or else by its name alone.

        Raises:
            DataError: several folders have a picture of this name.
        """
        if self.root is None:
            return None
        plain = _parts(name)
        inside = "/".join(plain)
        # Path.is_file raises for names that are too long
        if plain and ".." not in plain and os.path.isfile(self.root / inside):
            return inside
        return self._only(self._index().get(plain[-1] if plain else "", []), name)

    def find_stem(self, stem: str) -> str | None:
        """As :func:`find`, for a name without suffix."""
        self._index()
        return self._only(self._by_stem.get(stem, []), stem)

    def resolve(
        self, name: str, stated: tuple[int, int] | None, where: str
    ) -> tuple[str, int, int]:
        """The ``file_name``, width and height of an image.

        Args:
            name: as the annotation file has it.
            stated: width and height that it states.
            where: names file and entry in messages.

        Raises:
            DataError: the size is not known, or the picture has another one.
        """
        try:
            found = self.find(name)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if found is None:
            if stated is None:
                there = "name its folder with --images" if self.root is None else "it is not there"
                folder = "" if self.root is None else f" below {self.root}"
                raise DataError(
                    f"{where}: the size of the image {name}{folder} is not known: {there}."
                )
            self.missing.append(name)
            parts = _parts(name)
            return "/".join(parts if ".." not in parts else parts[-1:]) or name, *stated
        width, height = self.size(found)
        if stated is not None and stated != (width, height):
            lying = stated == (height, width)
            turned = (
                " when its EXIF orientation has turned it" if lying and self._turned(found) else ""
            )
            raise DataError(
                f"{where}: {self._path(found)} has {width} x {height} pixels{turned}, the file says "
                f"{stated[0]} x {stated[1]}."
            )
        return found, width, height

    def size(self, name: str) -> tuple[int, int]:
        """Width and height of a picture that was found, turned upright as Detectron2 does.

        Raises:
            DataError: it is no picture.
        """
        path = self._path(name)
        try:
            return upright_size(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{path}: cannot be read as a picture: {type(error).__name__}: {error}"
            ) from error

    def _turned(self, name: str) -> bool:
        with Image.open(self._path(name)) as picture:
            return picture.size != self.size(name)

    def _path(self, name: str) -> Path:
        return (self.root or Path()) / name

    def _index(self) -> dict[str, list[str]]:
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for folder, _, names in os.walk(self.root or "."):
                below = Path(folder).relative_to(self.root or ".")
                for name in names:
                    if os.path.splitext(name)[1].lower() in PICTURES and not name.startswith("."):
                        path = (below / name).as_posix()
                        self._by_name[name].append(path)
                        self._by_stem[os.path.splitext(name)[0]].append(path)
        return self._by_name

    def _only(self, paths: list[str], name: str) -> str | None:
        if len(paths) > 1:
            raise DataError(
                f"several pictures below {self.root} have the name {name}: {shorten(sorted(paths), 3)}."
            )
        return paths[0] if paths else None


def _parts(name: str) -> list[str]:
    """Parts of a path that Windows or any other system wrote, without its root and "."."""
    path = PureWindowsPath(name) if "\\" in name else PurePosixPath(name)
    return [part for part in path.parts if part not in (path.anchor, ".")]
