# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""COCO jsons in Detectron2's catalogs, with a skeleton for each category that has keypoints."""

from __future__ import annotations

import os
from collections.abc import Callable

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from .._moved import moved_names
from ..coco.read import read_coco
from ..errors import DataError
from ..skeletons import SkeletonSet
from .loading import load_mended

__all__ = ["load_coco_pose", "register_coco", "register_coco_pose", "replace_dataset"]

__getattr__ = moved_names(
    __name__,
    {"register_configured_datasets": "mrcnn_ext.data.configured_datasets:register_datasets"},
)


def register_coco(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    read_now: bool = True,
) -> None:
    """Register a COCO json: boxes, masks, and the keypoints of categories that name theirs.

    If a category has "keypoints", this is :func:`register_coco_pose`; else
    ``detectron2.data.datasets.register_coco_instances``, with class names from the start.

    Args:
        name: by which DATASETS.TRAIN and DATASETS.TEST call it. What had this name is replaced.
        json_file: annotations; any path Detectron2's ``PathManager`` opens.
        image_root: the folder of the images.
        read_now: read the classes and skeletons now. False opens the json when the data set is
            loaded; until then, its metadata name no classes.

    Raises:
        DataError: the json cannot be read, or its categories are invalid; names the file.
    """
    path, root = os.fspath(json_file), os.fspath(image_root)
    known = _read_classes(path) if read_now else None

    def load() -> list[dict]:
        skeletons = _describe(MetadataCatalog.get(name), known or _read_classes(path))
        if skeletons is None:
            return load_mended(path, root, name)
        return load_coco_pose(path, root, skeletons, name)

    metadata = replace_dataset(name, load)
    metadata.set(evaluator_type="coco", json_file=path, image_root=root, mrcnn_ext_mended=True)
    if known is not None:
        _describe(metadata, known)


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
    path, root = os.fspath(json_file), os.fspath(image_root)
    categories, found = _read_classes(path, skeletons)
    if found is None:
        raise DataError(f"{path}: no category has 'keypoints', a list of their names.")
    _check_categories(path, categories, found)
    metadata = replace_dataset(name, lambda: load_coco_pose(path, root, found, name))
    metadata.set(evaluator_type="coco", json_file=path, image_root=root, mrcnn_ext_mended=True)
    _describe(metadata, (categories, found))


def replace_dataset(name: str, load: Callable[[], list[dict]]) -> Metadata:
    """Register ``load`` as the data set ``name``, in place of what had this name.

    Returns:
        its metadata, empty but for the name.
    """
    if name in DatasetCatalog.list():
        DatasetCatalog.pop(name)
    # Empty metadata stay the object that they are: Detectron2's demo.py gets its own before it builds
    # the model, which is when the data sets of a config are registered.
    if name in MetadataCatalog.list() and len(MetadataCatalog.get(name).as_dict()) > 1:
        MetadataCatalog.pop(name)
    DatasetCatalog.register(name, load)
    return MetadataCatalog.get(name)


def _read_classes(
    path: str, skeletons: SkeletonSet | None = None
) -> tuple[list[dict], SkeletonSet | None]:
    """The json's categories in the order of their ids, and their skeletons if none are given."""
    try:
        categories = read_coco(path, annotated=False)["categories"]
        categories.sort(key=lambda c: (c["id"], c["name"]))
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: a category lacks 'id' or 'name'. python -m mrcnn_ext.data.check --json-file "
            f"{path} --image-root FOLDER says which."
        ) from error
    try:
        return categories, skeletons or SkeletonSet.from_coco_categories(categories)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _describe(
    metadata: Metadata, classes: tuple[list[dict], SkeletonSet | None]
) -> SkeletonSet | None:
    """Put classes and skeletons into the metadata; return the skeletons."""
    categories, skeletons = classes
    metadata.set(
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(categories)},
    )
    if skeletons is not None:
        skeletons.set_metadata(metadata)
    return skeletons


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
        DataError: an annotation has labelled keypoints, but not as many as its class; names file,
            image and category.
    """
    dicts = load_mended(os.fspath(json_file), os.fspath(image_root), name)
    slots = [skeletons.slots(class_id) for class_id in range(skeletons.num_classes)]
    for record in dicts:
        for annotation in record["annotations"]:
            own = slots[annotation["category_id"]]
            keypoints = annotation.get("keypoints") or []
            if len(keypoints) != 3 * len(own):
                if any(keypoints[2::3]):  # some are labelled
                    raise DataError(_misfit(json_file, record, annotation, skeletons))
                keypoints = [0] * (3 * len(own))
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
