# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's loaders around :class:`TrainingMapper`."""

from __future__ import annotations

from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from torch.utils.data import Dataset

from .class_counts import warn_of_missing_masks
from .mapper import TrainingMapper
from .negatives import load_records
from .samplers import sampler_from_config

__all__ = [
    "build_train_loader",
    "mapper_from_config",
    "test_loader_from_config",
    "train_loader_from_config",
    "training_data",
]


def build_train_loader(dataset, *, mapper, sampler=None, **kwargs):
    """``build_detection_train_loader``, whose mapper and sampler know the data set.

    A LazyConfig has it as ``dataloader.train``.

    Args:
        dataset: records, as Detectron2's function takes them; stored once for loader and mapper.
        mapper: for a record; one with an attribute ``dataset`` that is None gets it: for copy-paste.
        sampler: as for Detectron2's function, or what makes one of the list of records, as
            ``RepeatFactorSampling`` and ``ClassBalancedSampling`` of ``mrcnn_ext.data.samplers`` do.
        kwargs: as for Detectron2's function.
    """
    if callable(sampler):
        sampler = sampler(dataset)  # of the list: what loaders store is slow to go through
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if getattr(mapper, "dataset", dataset) is None:
        mapper.dataset = dataset
    return build_detection_train_loader(dataset, mapper=mapper, sampler=sampler, **kwargs)


def train_loader_from_config(cfg):
    """The loader of a yaml config: Detectron2's, with what ``MRCNN_EXT.DATA`` adds.

    Raises:
        ConfigError: an augmentation or the sampler cannot be used.
        DataError: classes of objects cannot be counted for the sampler; names the image.
    """
    mapper = TrainingMapper(cfg, True)
    records = _records(cfg)
    if cfg.MRCNN_EXT.DATA.BOXES_ONLY and cfg.MODEL.MASK_ON and isinstance(records, list):
        agnostic = cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK
        warn_of_missing_masks(records, cfg.DATASETS.TRAIN, class_agnostic=agnostic)
    sampler = sampler_from_config(cfg, records)  # of the list, as in build_train_loader
    dataset = _stored(records, mapper)
    return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset, sampler=sampler)


def test_loader_from_config(cfg, dataset_name: str):
    """The loader that a yaml config tests with: Detectron2's, whose images are read by the config."""
    mapper = mapper_from_config(cfg, is_train=False)
    return build_detection_test_loader(cfg, dataset_name, mapper=mapper)


def mapper_from_config(cfg, is_train: bool, **kwargs) -> DatasetMapper:
    """Detectron2's mapper; ours where it cannot read the images or their objects.

    Args:
        cfg: a config, with the ``MRCNN_EXT`` node or without.
        is_train: as for DatasetMapper.
        kwargs: as for DatasetMapper, in place of what the config says.
    """
    keys = cfg.MRCNN_EXT.DATA if "MRCNN_EXT" in cfg else None
    if keys and (keys.BANDS or (keys.BOXES_ONLY and is_train)):
        return TrainingMapper(cfg, is_train, **kwargs)
    return DatasetMapper(cfg, is_train, **kwargs)


def training_data(cfg) -> tuple[Dataset, TrainingMapper]:
    """The records that a yaml config trains on, and the mapper that makes samples of them.

    Raises:
        ConfigError: an augmentation cannot be used.
    """
    mapper = TrainingMapper(cfg, True)
    return _stored(_records(cfg), mapper), mapper


def _records(cfg) -> list[dict] | Dataset:
    least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    return load_records(
        cfg.DATASETS.TRAIN,
        cfg.MRCNN_EXT.DATA.NEGATIVES,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=least,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )


def _stored(records: list[dict] | Dataset, mapper: TrainingMapper) -> Dataset:
    """The records once for loader and mapper."""
    dataset = DatasetFromList(records, copy=False) if isinstance(records, list) else records
    if mapper.needs_dataset:
        mapper.dataset = dataset
    return dataset
