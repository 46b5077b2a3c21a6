# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's loaders around :class:`TrainingMapper`."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.build import get_detection_dataset_dicts

from .mapper import TrainingMapper
from .negatives import keep_negatives

__all__ = [
    "build_train_loader",
    "mapper_from_config",
    "test_loader_from_config",
    "train_loader_from_config",
    "training_data",
]


def build_train_loader(dataset, *, mapper, **kwargs):
    """``build_detection_train_loader``, whose mapper knows the data set: copy-paste needs it.

    A LazyConfig has it as ``dataloader.train``.

    Args:
        dataset: records, as Detectron2's function takes them; stored once for loader and mapper.
        mapper: for a record; one with an attribute ``dataset`` that is None gets it.
        kwargs: as for Detectron2's function.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if getattr(mapper, "dataset", dataset) is None:
        mapper.dataset = dataset
    return build_detection_train_loader(dataset, mapper=mapper, **kwargs)


def train_loader_from_config(cfg):
    """The loader of a yaml config: Detectron2's, with what ``MRCNN_EXT.DATA`` adds.

    Raises:
        ConfigError: an augmentation cannot be used.
    """
    dataset, mapper = training_data(cfg)
    return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset)


def test_loader_from_config(cfg, dataset_name: str):
    """The loader that a yaml config tests with: Detectron2's, whose images are read by the config."""
    mapper = mapper_from_config(cfg, is_train=False)
    return build_detection_test_loader(cfg, dataset_name, mapper=mapper)


def mapper_from_config(cfg, is_train: bool, **kwargs) -> DatasetMapper:
    """Detectron2's mapper; ours where it cannot read the images.

    Args:
        cfg: a config, with the ``MRCNN_EXT`` node or without.
        is_train: as for DatasetMapper.
        kwargs: as for DatasetMapper, in place of what the config says.
    """
    ours = "MRCNN_EXT" in cfg and cfg.MRCNN_EXT.DATA.BANDS
    return (TrainingMapper if ours else DatasetMapper)(cfg, is_train, **kwargs)


def training_data(cfg) -> tuple[Sequence[dict], TrainingMapper]:
    """The records that a yaml config trains on, and the mapper that makes samples of them.

    Raises:
        ConfigError: an augmentation cannot be used.
    """
    mapper = TrainingMapper(cfg, True)
    least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    share = cfg.MRCNN_EXT.DATA.NEGATIVES
    dataset = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and not share,
        min_keypoints=0 if share else least,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    if share and isinstance(dataset, list) and "annotations" in dataset[0]:
        dataset = keep_negatives(dataset, share, min_keypoints=least)
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper.needs_dataset:
        mapper.dataset = dataset
    return dataset, mapper
