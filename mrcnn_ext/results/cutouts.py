# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Cut-outs: each object as a PNG of its own, transparent where its mask is not."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from ..coco.rle import mask_crop
from ..errors import ConfigError
from .predictions import Predictions

__all__ = ["Cutouts", "cut_out"]

_PART = ".part"  # ends the names of folders that are not whole


def cut_out(image: np.ndarray, record: dict) -> np.ndarray | None:
    """One object of an image.

    Args:
        image: uint8 (H, W, 3), BGR.
        record: with "segmentation" (RLE), or else "bbox".

    Returns:
        uint8 (h, w, 4), BGRA, as large as the mask; what is not in the mask is 0. Without a mask, the
        part in its box. None if no pixel of the image is in it.
    """
    if record.get("segmentation"):
        x, y, columns = mask_crop(record["segmentation"])
        alpha = np.ascontiguousarray(columns.T)
    else:
        left, top, width, height = record["bbox"]
        x, y = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
        x1 = min(image.shape[1], int(np.ceil(left + width)))
        y1 = min(image.shape[0], int(np.ceil(top + height)))
        alpha = np.ones((max(0, y1 - y), max(0, x1 - x)), dtype=np.uint8)
    if not alpha.size:
        return None
    part = image[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    return np.dstack([part * alpha[:, :, None], alpha * np.uint8(255)])


class Cutouts:
    """A folder ``cutouts/`` with a folder for each image, which is there as a whole or not at all.

    Args:
        folder: of the output.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cutouts"

    @staticmethod
    def check(names: Iterable[str]) -> None:
        """
        Raises:
            ConfigError: an image would need the name of another's folder; names both.
        """
        known = set(names)
        for name in known:
            for parent in PurePosixPath(name).parents:
                if str(parent) in known:
                    raise ConfigError(
                        f"--save cutouts: the folder of {parent} would hold that of {name}; predict "
                        "on them with two --output."
                    )

    def begin(self) -> None:
        """Delete what killed processes left; this one holds the folder.

        Raises:
            OSError: it cannot be deleted.
        """
        for leftover in self.folder.glob(f".*{_PART}"):
            shutil.rmtree(leftover)

    def discard(self, names: Iterable[str]) -> None:
        """Delete those of images, and of all frames of videos, that have these names."""
        for name in names:
            target = self.folder / name
            frames = target.parent.glob(f"{_literal(target.name)}#*") if target.name else ()
            for folder in (target, *frames):
                shutil.rmtree(folder, ignore_errors=True)

    def __contains__(self, name: str) -> bool:
        return (self.folder / name).is_dir()

    def write(self, image: np.ndarray, line: dict, predictions: Predictions) -> None:
        """Write the objects of an image, as ``NUMBER_CLASS.png``; they count from 1 as in its line.

        Args:
            image: uint8 (H, W, 3), BGR.
            line: of the image.
            predictions: knows the classes' names.

        Raises:
            OSError: they cannot be written; then none of them is.
        """
        target = self.folder / line["file"]
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(_PART, ".", self.folder))
        try:
            for number, record in enumerate(line["results"], 1):
                picture = cut_out(image, record)
                if picture is not None:
                    name = re.sub(r"[^\w.-]+", "_", predictions.class_name(record))[:60]
                    _write(temporary / f"{number}_{name}.png", picture)
            temporary.chmod(0o755)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def finished(self, done: Collection[str]) -> Collection[str]:
        """Of the images that have a line, those that have cut-outs, too; looks at each when asked."""
        return _Both(done, self)


class _Both(Collection):
    def __init__(self, done: Collection[str], cutouts: Cutouts) -> None:
        self._done, self._cutouts = done, cutouts

    def __contains__(self, name: object) -> bool:
        return name in self._done and str(name) in self._cutouts

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._done if name in self._cutouts)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _literal(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)


def _write(file: Path, picture: np.ndarray) -> None:
    _, encoded = cv2.imencode(".png", picture)
    with open(file, "wb") as opened:
        opened.write(encoded.tobytes())
        opened.flush()
        os.fsync(opened.fileno())  # else a power failure may leave an empty file
