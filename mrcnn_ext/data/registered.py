# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Where a data set's COCO json and images are: of a registered name, or of the file itself."""

from __future__ import annotations

import os
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..errors import DataError
from ..messages import similar

__all__ = ["CocoFiles", "find_coco", "registered_coco"]


@dataclass(frozen=True)
class CocoFiles:
    """
    Attributes:
        name: the registered name, or the json's path.
        json_file: annotations; a path for Detectron2's ``PathManager``.
        image_root: folder of the images; None if it is not known.
        metadata: of the registered name; None for a json that was named itself.
    """

    name: str
    json_file: str
    image_root: str | None = None
    metadata: Metadata | None = None


def find_coco(dataset: str | os.PathLike) -> CocoFiles:
    """Find the files of a data set.

    Args:
        dataset: a COCO json, or the name of a registered data set that has one.

    Raises:
        DataError: there is neither, or it has no json.
    """
    name = os.fspath(dataset)
    if os.path.isfile(name):  # Path.is_file raises for names that are too long
        return CocoFiles(name, name)
    if name not in DatasetCatalog:
        raise DataError(f"no data set '{name}' is registered, and it is no file; {_hint(name)}.")
    return _files(name)


def _hint(name: str) -> str:
    near = ", ".join(similar(name, DatasetCatalog.keys()))
    return f"similar names: {near}" if near else "import the module that registers it"


def _files(name: str) -> CocoFiles:
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file") is None:  # some are made, and only then known, on first use
        try:
            DatasetCatalog.get(name)
        except Exception as error:
            raise DataError(f"'{name}' cannot be loaded: {error}") from error
    if metadata.get("json_file") is None:
        raise DataError(
            f"'{name}' is not in COCO's format (json_file in its metadata); "
            "detectron2.data.datasets.convert_to_coco_json writes it."
        )
    image_root = metadata.get("image_root")
    image_root = None if image_root is None else str(image_root)
    return CocoFiles(name, str(metadata.json_file), image_root, metadata)


def registered_coco(name: str) -> CocoFiles:
    """Find the files of a registered data set whose json has the file names of its images.

    Raises:
        DataError: it is not registered, or not in COCO's format with a folder of images.
    """
    if name not in DatasetCatalog:
        raise DataError(f"no data set '{name}' is registered; {_hint(name)}.")
    files = _files(name)
    if files.image_root is None or MetadataCatalog.get(name).get("evaluator_type") == "lvis":
        raise DataError(
            f"'{name}' is not in COCO's format (json_file and image_root in its metadata); "
            "detectron2.data.datasets.convert_to_coco_json writes it."
        )
    return files
