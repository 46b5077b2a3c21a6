# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The skeletons of a config's model and of its data sets."""

from __future__ import annotations

import logging

from detectron2.data import MetadataCatalog
from torch import Tensor

from ..errors import ConfigError, DataError
from ..skeletons import Skeleton, SkeletonSet
from .configured_datasets import register_datasets

__all__ = ["class_keypoints_from_config", "skeletons_from_config", "skeletons_of_dataset"]

logger = logging.getLogger(__name__)

_KEY = "MRCNN_EXT.POSE.SKELETONS"


def skeletons_from_config(cfg) -> SkeletonSet | None:
    """The skeletons of a model's classes.

    They come from the file ``MRCNN_EXT.POSE.SKELETONS``; without one, from the metadata of the first
    data set of DATASETS.TRAIN (of DATASETS.TEST, if there is none).

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.

    Returns:
        the skeletons, None where nothing is known of them.

    Raises:
        ConfigError: the file cannot be used, or MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS or
            MODEL.ROI_HEADS.NUM_CLASSES does not fit.
        DataError: a data set's json or metadata cannot be used.
    """
    register_datasets(cfg)
    path = cfg.MRCNN_EXT.POSE.SKELETONS
    if path:
        try:
            found: SkeletonSet | None = SkeletonSet.load(path)
        except DataError as error:
            raise ConfigError(f"{_KEY}: {error}") from error
        source = f"{_KEY} ({path})"
    else:
        name = next(iter([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]), None)
        if name is None:
            return None
        found = skeletons_of_dataset(name)
        source = f"the data set '{name}'"
    if found is None:
        _warn_unknown(cfg)
        return None
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if not found.class_skeletons and len(found.skeletons) == 1:
        # Metadata that names no classes says nothing of their number.
        found = SkeletonSet(found.skeletons, (0,) * num_classes)
    _check(cfg, found, source)
    return found


def skeletons_of_dataset(name: str) -> SkeletonSet | None:
    """The skeletons in the metadata of a data set; None if it has no keypoints.

    Raises:
        DataError: the metadata contradict themselves; names the data set.
    """
    return SkeletonSet.from_metadata(MetadataCatalog.get(name))


def class_keypoints_from_config(cfg) -> Tensor | None:
    """Which slots are those of a class, as keypoint heads take it.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.

    Returns:
        bool (num_classes, K) on the CPU; None where every class has all of them, or where nothing
        is known of the skeletons.

    Raises:
        ConfigError, DataError: see :func:`skeletons_from_config`.
    """
    skeletons = skeletons_from_config(cfg)
    if skeletons is None:
        return None
    keypoints = skeletons.class_keypoints()
    return None if bool(keypoints.all()) else keypoints


def _check(cfg, skeletons: SkeletonSet, source: str) -> None:
    number = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if number != skeletons.num_keypoints:
        raise ConfigError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {number}, but the skeletons of {source} have "
            f"{skeletons.num_keypoints} keypoints ({_sizes(skeletons.skeletons)}); expected "
            f"{skeletons.num_keypoints}."
        )
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if classes != skeletons.num_classes:
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {classes}, but the skeletons of {source} are of "
            f"{skeletons.num_classes} classes; expected {skeletons.num_classes}."
        )


def _sizes(skeletons: tuple[Skeleton, ...]) -> str:
    return " + ".join(f"{len(skeleton)} of '{skeleton.name}'" for skeleton in skeletons)


def _warn_unknown(cfg) -> None:
    # With one class, all keypoints are its own whatever they are.
    if cfg.MODEL.KEYPOINT_ON and cfg.MODEL.ROI_HEADS.NUM_CLASSES > 1:
        logger.warning(
            "The data sets' metadata name no keypoints: every class gets all of them. If classes "
            "have skeletons of their own, set %s to a file of them (docs/pose/skeletons.md).",
            _KEY,
        )
