# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find the images and videos that a user named."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

import cv2

from ..errors import DataError
from ..messages import shorten

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "Source", "find_sources"]

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp .tif .tiff .webp .gif .ppm .pgm".split())
VIDEO_SUFFIXES = frozenset(".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg".split())


@dataclass(frozen=True)
class Source:
    """One image or video.

    Attributes:
        path: of the file.
        name: unique among all sources of a run; pictures and results are named after it.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    def picture_name(self) -> str:
        """Where the drawn picture goes, below the folder of pictures."""
        # The old suffix stays in the name: a.jpg and a.bmp are two sources.
        suffix = ".mp4" if self.is_video else ".png"
        return self.name if self.name.endswith(suffix) else self.name + suffix

    def stamp(self) -> list[int]:
        """Size in bytes and time of the last change in ns: they tell whether the file changed.

        Zeros if it is not there any more.
        """
        try:
            status = self.path.stat()
        except OSError:
            return [0, 0]
        return [status.st_size, status.st_mtime_ns]

    def name_problem(self) -> str | None:
        """Why no result can be named after it; None if it can."""
        try:
            f"{self.path}{self.name}".encode()
        except UnicodeEncodeError:
            return "its name is not valid UTF-8; rename it"
        return None

    def count(self, every: int) -> int:
        """About how many images this will give; for progress bars."""
        if not self.is_video or self.name_problem():
            return 1
        capture = cv2.VideoCapture(str(self.path))
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        return max(1, frames // every)


def find_sources(inputs: list[str], option: str = "INPUT", *, arrays: bool = False) -> list[Source]:
    """Expand files, folders and globs, in this order of their kinds for each input.

    A file that is named is taken whatever its suffix; of a folder, images and videos are.

    Args:
        inputs: paths and globs.
        option: what a message calls the place they were written in.
        arrays: a folder's npy files are images, too.

    Raises:
        DataError: an input does not exist, or a folder or glob has no image or video.
    """
    found: list[tuple[Path, Path]] = []  # file, and what its name is relative to
    try:
        for text in inputs:
            found += _found(text, option, arrays)
        return _named(found)
    except (OSError, RuntimeError) as error:  # too long a name, links in a circle, no permission
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{option} '{shorten(inputs)}': cannot be searched: {reason}.") from error


def _found(text: str, option: str, arrays: bool) -> list[tuple[Path, Path]]:
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES | ({".npy"} if arrays else set())
    path = Path(text)
    if path.is_file():
        return [(path, path.parent)]
    if path.is_dir():
        files, base = sorted(p for p in path.rglob("*") if os.path.isfile(p)), path
    else:
        files = sorted(Path(name) for name in glob.glob(text, recursive=True))
        base = _literal_part(text)
        if not files:
            raise DataError(f"{option} '{text}': no such file, folder or match.")
    files = [p for p in files if p.suffix.lower() in known and os.path.isfile(p)]
    if not files:
        raise DataError(f"{option} '{text}': neither images nor videos in it.")
    return [(p, base) for p in files]


def _literal_part(pattern: str) -> Path:
    """The folders of a glob before its first special character."""
    parts: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _named(found: list[tuple[Path, Path]]) -> list[Source]:
    sources: list[Source] = []
    pictures: set[str] = set()
    paths: set[Path] = set()
    for path, base in found:
        if path.resolve() in paths:  # named twice
            continue
        paths.add(path.resolve())
        relative = path.relative_to(base)
        source = Source(path, relative.as_posix())
        number = 1
        # The same name from two inputs, or the same picture: a.jpg and a.jpg.png
        while source.picture_name() in pictures:
            number += 1
            name = relative.with_name(f"{relative.stem}_{number}{relative.suffix}")
            source = Source(path, name.as_posix())
        sources.append(source)
        pictures.add(source.picture_name())
    return sources
