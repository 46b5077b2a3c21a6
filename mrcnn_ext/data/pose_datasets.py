# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""COCO jsons whose categories have keypoints of their own, in Detectron2's catalogs."""

from __future__ import annotations

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from ..coco.read import read_coco
from ..errors import ConfigError, DataError
from ..skeletons import SkeletonSet

__all__ = ["load_coco_pose", "register_coco_pose", "register_configured_datasets"]

_KEY = "MRCNN_EXT.POSE.DATASETS"


def register_coco_pose(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    skeletons: SkeletonSet | None = None,
) -> None:
    """Register a COCO json whose categories may have different keypoints.

    The json is read at once, for the classes and their skeletons. Every object of the data set then
    has all K keypoints of the flat layout, so that Detectron2's data loader takes it as it is.

    Args:
        name: by which DATASETS.TRAIN and DATASETS.TEST call it. What had this name is replaced.
        json_file: annotations; "keypoints" of an annotation are those of its category.
        image_root: the folder of the images.
        skeletons: in place of what the json's categories say; one entry of ``class_skeletons`` a
            category, in the order of ids.

    Raises:
        DataError: the json cannot be read, or the skeletons do not fit; names the file.
    """
    path = os.fspath(json_file)
    categories = sorted(read_coco(path)["categories"], key=lambda category: category["id"])
    if skeletons is None:
        try:
            skeletons = SkeletonSet.from_coco_categories(categories)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    if skeletons is None:
        raise DataError(f"{path}: no category has 'keypoints', a list of their names.")
    _check_categories(path, categories, skeletons)
    # The catalogs' own "in" would not do for metadata, which get() creates.
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.pop(name)
    loaded = skeletons
    DatasetCatalog.register(name, lambda: load_coco_pose(path, image_root, loaded, name))
    metadata = MetadataCatalog.get(name)
    metadata.set(
        evaluator_type="coco",
        json_file=path,
        image_root=os.fspath(image_root),
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(categories)},
    )
    skeletons.set_metadata(metadata)


def _check_categories(path: str, categories: list[dict], skeletons: SkeletonSet) -> None:
    if len(categories) != skeletons.num_classes:
        raise DataError(
            f"{path}: there are {len(categories)} categories, but skeletons of "
            f"{skeletons.num_classes} classes; expected the same number."
        )
    for class_id, category in enumerate(categories):
        names = category.get("keypoints")
        wanted = skeletons.skeleton(class_id)
        if names and wanted is not None and list(wanted.keypoint_names) != list(names):
            raise DataError(
                f"{path}: category '{category['name']}' has the keypoints {', '.join(names)}; its "
                f"skeleton '{wanted.name}' has {', '.join(wanted.keypoint_names)}."
            )


def load_coco_pose(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    skeletons: SkeletonSet,
    name: str | None = None,
) -> list[dict]:
    """Detectron2's dataset dicts, with each object's keypoints laid out flat.

    Args:
        json_file, image_root: as for :func:`register_coco_pose`.
        skeletons: of the classes.
        name: a registered name, whose metadata get what ``load_coco_json`` puts there.

    Returns:
        As ``load_coco_json``; every annotation has "keypoints", 3 K numbers, of which those outside
        its class are 0.

    Raises:
        DataError: an annotation's keypoints do not fit its class; names file, image and category.
    """
    dicts = load_coco_json(os.fspath(json_file), os.fspath(image_root), name)
    slots = [skeletons.slots(class_id) for class_id in range(skeletons.num_classes)]
    for record in dicts:
        for annotation in record["annotations"]:
            own = slots[annotation["category_id"]]
            keypoints = annotation.get("keypoints") or [0] * (3 * len(own))
            if len(keypoints) != 3 * len(own):
                raise DataError(_misfit(json_file, record, annotation, skeletons))
            flat = [0.0] * (3 * skeletons.num_keypoints)
            flat[3 * own.start : 3 * own.stop] = keypoints
            annotation["keypoints"] = flat
    return dicts


def _misfit(json_file, record: dict, annotation: dict, skeletons: SkeletonSet) -> str:
    class_id = annotation["category_id"]
    skeleton = skeletons.skeleton(class_id)
    wanted = "no keypoints" if skeleton is None else f"{len(skeleton)} keypoints, 3 numbers each"
    return (
        f"{json_file}: image {record['file_name']} (id {record['image_id']!r}) has an object of "
        f"class {skeletons.describe_class(class_id)} with {len(annotation['keypoints'])} numbers in "
        f"'keypoints'; expected {wanted}. python -m mrcnn_ext.data.check finds all such objects."
    )


def register_configured_datasets(cfg) -> None:
    """Register what ``MRCNN_EXT.POSE.DATASETS`` lists, unless it is registered so already.

    Raises:
        ConfigError: an entry is not three texts, or its json cannot be used; names the key.
    """
    for index, entry in enumerate(cfg.MRCNN_EXT.POSE.DATASETS):
        where = f"{_KEY}[{index}]"
        texts = isinstance(entry, (list, tuple)) and all(isinstance(e, str) for e in entry)
        if not texts or len(entry) != 3:
            raise ConfigError(f"{where} is {entry!r}; expected [name, json file, image folder].")
        name, json_file, image_root = entry
        if name in DatasetCatalog.list():
            metadata = MetadataCatalog.get(name)
            if (metadata.get("json_file"), metadata.get("image_root")) == (json_file, image_root):
                continue
            if metadata.get("mrcnn_ext_skeletons") is None:
                raise ConfigError(f"{where}: there is a data set '{name}' already; name it anew.")
        if cfg.MRCNN_EXT.POSE.SKELETONS and not PathManager.exists(json_file):
            continue  # a model can be used where its data set is not
        try:
            register_coco_pose(name, json_file, image_root)
        except DataError as error:
            raise ConfigError(f"{where}: {error}") from error
