# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The data sets that a config describes, in Detectron2's catalogs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..errors import ConfigError, DataError
from .coco_datasets import register_coco, register_coco_pose
from .shapes import configure_builtin_shapes

__all__ = ["register_datasets"]

_COCO, _POSE = "MRCNN_EXT.DATA.DATASETS", "MRCNN_EXT.POSE.DATASETS"
# Name -> key, json file and image folder of what was registered here.
_registered: dict[str, tuple[str, str, str]] = {}


def register_datasets(cfg, *, names: Iterable[str] = (), skip_missing: bool = False) -> None:
    """Register the data sets that ``cfg`` describes; calling it again changes nothing.

    These are the built-in shapes as ``MRCNN_EXT.SHAPES`` wants them, and what
    ``MRCNN_EXT.DATA.DATASETS`` and ``MRCNN_EXT.POSE.DATASETS`` list. Of the former, a json is read
    now only if DATASETS.TRAIN, DATASETS.TEST or ``names`` name its data set.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        names: data sets that will be used besides those of the config.
        skip_missing: leave out a data set whose json is not there. Prediction needs none.

    Raises:
        ConfigError: an entry is no list of three texts, its name is another data set's, or its json
            cannot be used; names key and entry.
    """
    configure_builtin_shapes(**{key.lower(): value for key, value in cfg.MRCNN_EXT.SHAPES.items()})
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *names}
    for key, where, (name, json_file, image_root) in _entries(cfg):
        # With a file of the skeletons, a model can be used where its data set is not.
        optional = skip_missing or (key == _POSE and cfg.MRCNN_EXT.POSE.SKELETONS)
        if optional and not PathManager.exists(json_file):
            continue
        read_now = key == _POSE or name in used
        if not _is_new(where, name, (key, json_file, image_root), read_now):
            continue
        try:
            if key == _POSE:
                register_coco_pose(name, json_file, image_root)
            else:
                register_coco(name, json_file, image_root, read_now=read_now)
        except DataError as error:
            raise ConfigError(f"{where}: {error}") from error
        _registered[name] = key, json_file, image_root


def _entries(cfg) -> Iterator[tuple[str, str, list[str]]]:
    """Key, place and value of each entry, checked; the same entry in both keys comes once."""
    lists = (_COCO, cfg.MRCNN_EXT.DATA.DATASETS), (_POSE, cfg.MRCNN_EXT.POSE.DATASETS)
    seen: dict[str, tuple[str, list[str]]] = {}
    for key, where, entry in [
        (key, f"{key}[{i}]", entry) for key, entries in lists for i, entry in enumerate(entries)
    ]:
        texts = isinstance(entry, (list, tuple)) and all(isinstance(e, str) for e in entry)
        if not texts or len(entry) != 3:
            raise ConfigError(f"{where} is {entry!r}; expected [name, json file, image folder].")
        other_place, other = seen.setdefault(entry[0], (where, list(entry)))
        if other != list(entry):
            raise ConfigError(
                f"{where}: '{entry[0]}' is the name of {other_place}, too; expected different names."
            )
        if other_place == where:
            yield key, where, other


def _is_new(where: str, name: str, found: tuple[str, str, str], read_now: bool) -> bool:
    """Whether an entry is still to be registered."""
    if name not in DatasetCatalog.list():
        return True
    metadata = MetadataCatalog.get(name)
    same_files = (metadata.get("json_file"), metadata.get("image_root")) == found[1:]
    if name in _registered:
        unread = read_now and metadata.get("thing_classes") is None
        return unread or not same_files or _registered[name][0] != found[0]
    if not same_files:
        raise ConfigError(f"{where}: there is a data set '{name}' already; name it anew.")
    return False
