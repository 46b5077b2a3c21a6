# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Contradictions inside a yaml config, found before a run starts."""

from __future__ import annotations

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    GeneralizedRCNN,
)

from ..coco.peek import first_annotations
from ..coco.read import class_names, differing_classes, read_categories
from ..errors import ConfigError, DataError
from ..messages import describe, shorten, similar
from .check_class_weights import check_class_weights, check_weighted_heads
from .check_values import check_values

__all__ = ["check_config", "check_model_and_datasets", "check_names"]


def check_config(cfg, *, training: bool = False) -> None:
    """Check ``cfg`` before anything is built: names, values, and what is known of the data sets.

    Class names are those of the metadata; of a json that is registered, but was not read yet, those
    of its categories. Other data sets are not loaded for it.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        training: it is to be trained, so that there must be data sets for it.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    check_names(cfg)
    check_values(cfg)
    check_class_weights(cfg)
    check_weighted_heads(cfg)
    if training:
        _check_training_sets(cfg)
    if training and cfg.MODEL.KEYPOINT_ON:
        for name in cfg.DATASETS.TRAIN:
            _check_keypoint_metadata(name)
    first: tuple[str, str, list] | None = None
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            place = f"'{name}' (DATASETS.{key})"
            classes = _check_dataset(cfg, f"DATASETS.{key}", name)
            if classes and first is None:
                first = name, place, classes
            elif classes and first is not None:
                difference = differing_classes(first[2], classes)
                if difference:
                    raise ConfigError(
                        f"{place} has not the classes of {first[1]}: {difference}. Names and their "
                        "order (by category id) must be the same."
                    )
    if training and first is not None:
        check_class_weights(cfg, first[2])


def check_names(cfg) -> None:
    """Check the names of registered components, where the model is an R-CNN, which has them all.

    Args:
        cfg: a Detectron2 config.

    Raises:
        ConfigError: names the key, its value, similar names and those that there are.
    """
    model = cfg.MODEL
    _check_registered("MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY)
    if not issubclass(META_ARCH_REGISTRY.get(model.META_ARCHITECTURE), GeneralizedRCNN):
        return
    checks = [
        ("MODEL.BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("MODEL.PROPOSAL_GENERATOR.NAME", model.PROPOSAL_GENERATOR.NAME, None),
        ("MODEL.ANCHOR_GENERATOR.NAME", model.ANCHOR_GENERATOR.NAME, ANCHOR_GENERATOR_REGISTRY),
        ("MODEL.ROI_HEADS.NAME", model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
    ]
    if model.ROI_BOX_HEAD.NAME:  # C4 heads have none
        checks.append(("MODEL.ROI_BOX_HEAD.NAME", model.ROI_BOX_HEAD.NAME, ROI_BOX_HEAD_REGISTRY))
    if model.MASK_ON:
        checks.append(
            ("MODEL.ROI_MASK_HEAD.NAME", model.ROI_MASK_HEAD.NAME, ROI_MASK_HEAD_REGISTRY)
        )
    if model.KEYPOINT_ON:
        name = model.ROI_KEYPOINT_HEAD.NAME
        checks.append(("MODEL.ROI_KEYPOINT_HEAD.NAME", name, ROI_KEYPOINT_HEAD_REGISTRY))
    for key, name, registry in checks:
        if registry is None:  # its one special value stands for "no proposals"
            if name == "PrecomputedProposals":
                continue
            registry = PROPOSAL_GENERATOR_REGISTRY
        _check_registered(key, name, registry)


def check_model_and_datasets(cfg, *, training: bool) -> None:
    """Check what any model needs, one of Detectron2's or of the user's own, too.

    Args:
        cfg: a Detectron2 config, whose data sets are registered.
        training: it is to be trained, so that there must be data sets for it.

    Raises:
        ConfigError: as :func:`check_config`.
    """
    model = cfg.MODEL
    _check_registered("MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY)
    if training:
        check_weighted_heads(cfg)
        _check_training_sets(cfg)
    for key in ("TRAIN", "TEST") if training else ("TEST",):
        for name in cfg.DATASETS[key]:
            _check_dataset_name(f"DATASETS.{key}", name)
    if training:
        keys, name = cfg.MRCNN_EXT, cfg.DATASETS.TRAIN[0]
        named = keys.BOX_HEAD.CLASS_WEIGHTS or keys.MASK_HEAD.CLASS_WEIGHTS
        check_class_weights(cfg, _known_classes("DATASETS.TRAIN", name) if named else ())


def _check_training_sets(cfg) -> None:
    if not cfg.DATASETS.TRAIN:
        raise ConfigError(
            "DATASETS.TRAIN is (), but training needs a data set; expected registered names, such as "
            "('my_train',)."
        )


def _check_registered(key: str, name: str, registry) -> None:
    if name in registry:
        return
    known = sorted(n for n, _ in registry)
    near = ", ".join(similar(name, known))
    raise ConfigError(
        f"{key} is '{name}', which nobody registered; "
        + (f"similar names: {near}; " if near else "")
        + f"there are: {', '.join(known)}."
    )


def _check_dataset_name(key: str, name: str) -> None:
    if name not in DatasetCatalog:
        near = ", ".join(similar(str(name), DatasetCatalog.keys()))
        raise ConfigError(
            f"{key} names '{name}', which is not registered"
            + (f"; similar names: {near}." if near else ".")
        )


def _check_dataset(cfg, key: str, name: str) -> list:
    """Class names, empty if they are not known."""
    _check_dataset_name(key, name)
    metadata = MetadataCatalog.get(name)
    classes = _known_classes(key, name)
    # "Hidden" classes: LVIS's list is only complete after loading; an empty list says nothing.
    if classes and len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but '{name}' "
            f"({key}) has {len(classes)} classes: {shorten(classes)}."
        )
    if cfg.MODEL.MASK_ON and key == "DATASETS.TRAIN" and cfg.INPUT.MASK_FORMAT == "polygon":
        _check_polygons(name, metadata)
    keypoints = metadata.get("keypoint_names")
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if cfg.MODEL.KEYPOINT_ON and keypoints and len(keypoints) != count:
        raise ConfigError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {count}, but '{name}' ({key}) has "
            f"{len(keypoints)} keypoints: {shorten(keypoints)}."
        )
    return list(classes or ())


def _check_keypoint_metadata(name: str) -> None:
    """What Detectron2 asks the metadata of a user's json for, with an AttributeError."""
    metadata = MetadataCatalog.get(name)
    if name not in DatasetCatalog or metadata.get("evaluator_type") != "coco":
        return
    keys = ("keypoint_names", "keypoint_flip_map")
    missing = [key for key in keys if metadata.get(key) is None]
    if missing:
        raise ConfigError(
            f"MODEL.KEYPOINT_ON is True, but the metadata of '{name}' (DATASETS.TRAIN) lacks "
            f"{' and '.join(missing)}: set them with MetadataCatalog.get('{name}').set(…), or name the "
            "json in MRCNN_EXT.POSE.DATASETS, which takes them from its categories."
        )


def _known_classes(key: str, name: str) -> list:
    metadata = MetadataCatalog.get(name)
    return metadata.get("thing_classes") or _classes_of_json(key, name, metadata)


def _classes_of_json(key: str, name: str, metadata) -> list:
    """Of a data set of ``register_coco_instances``, which fills its metadata when it is loaded."""
    json_file = metadata.get("json_file")
    if metadata.get("evaluator_type") != "coco" or not json_file or not os.path.isfile(json_file):
        return []
    try:
        return class_names(read_categories(json_file))
    except DataError as error:
        raise ConfigError(f"{key}: '{name}': {error}") from error


def _check_polygons(name: str, metadata) -> None:
    """Look at the first annotations of a training set: Detectron2 fails in the middle of a run."""
    json_file = metadata.get("json_file")
    annotations = first_annotations(json_file) if json_file else []
    rles = [a for a in annotations if isinstance(a.get("segmentation"), dict)]
    rles = [a for a in rles if not a.get("iscrowd")]
    if rles or metadata.get("mrcnn_ext_mask_format") == "bitmask":
        which = f", as annotation {describe(rles[0].get('id'))}" if rles else ""
        raise ConfigError(
            f"INPUT.MASK_FORMAT is 'polygon', but '{name}' (DATASETS.TRAIN) has masks in run-length "
            f"encoding{which}; expected 'bitmask'."
        )
