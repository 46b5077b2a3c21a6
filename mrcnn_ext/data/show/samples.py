# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The training samples that a config describes, one by one."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T

from ...config.check_data import check_data
from ...errors import ConfigError
from ..configured_datasets import register_datasets
from ..mapper import TrainingMapper
from ..train_loader import training_data

__all__ = ["TrainingSamples"]


@dataclass
class TrainingSamples:
    """
    Attributes:
        records: of the data sets, in Detectron2's form.
        mapper: from a record to a sample.
        metadata: of the first data set; None if it is not known.
    """

    records: Sequence[dict]
    mapper: Any
    metadata: Any = None

    @classmethod
    def of_config(cls, cfg) -> TrainingSamples:
        """
        Args:
            cfg: a CfgNode, or a LazyConfig with dataloader.train.dataset and dataloader.train.mapper.

        Raises:
            ConfigError: it has no training data, or an augmentation cannot be used.
        """
        if isinstance(cfg, CfgNode):
            return cls._of_yaml(cfg)
        train = cfg.get("dataloader", {}).get("train", {})
        if "dataset" not in train or "mapper" not in train:
            raise ConfigError("the LazyConfig has no dataloader.train.dataset and .mapper.")
        records, mapper = instantiate(train.dataset), instantiate(train.mapper)
        if getattr(mapper, "dataset", records) is None:
            mapper.dataset = records
        names = train.dataset.get("names", "")
        name = names if isinstance(names, str) else next(iter(names), "")
        return cls(records, mapper, MetadataCatalog.get(name) if name else None)

    @classmethod
    def _of_yaml(cls, cfg) -> TrainingSamples:
        register_datasets(cfg)
        check_data(cfg)
        if not cfg.DATASETS.TRAIN:
            raise ConfigError("DATASETS.TRAIN is (), so there are no training samples.")
        records, mapper = training_data(cfg)
        return cls(records, mapper, MetadataCatalog.get(cfg.DATASETS.TRAIN[0]))

    def choose(self, number: int, seed: int) -> list[int]:
        """Indices of random records, all different."""
        number = min(number, len(self.records))
        return np.random.default_rng(seed).choice(len(self.records), number, replace=False).tolist()

    def sample(self, index: int, seed: int) -> dict:
        """The sample of a record, with random numbers that depend on ``seed`` alone."""
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return self.mapper(copy.deepcopy(self.records[index]))

    @property
    def augmentations(self) -> list:
        """Those of the mapper, one by one.

        Raises:
            ConfigError: the mapper is none of this package or of Detectron2.
        """
        if isinstance(self.mapper, TrainingMapper):
            return self.mapper.steps
        listed = getattr(getattr(self.mapper, "augmentations", None), "augs", None)
        if listed is None:
            raise ConfigError(
                f"--each: {type(self.mapper).__qualname__} does not say what its augmentations are; "
                "expected mrcnn_ext.data.TrainingMapper or Detectron2's DatasetMapper."
            )
        return listed

    def only(self, augmentations: list) -> TrainingSamples:
        """The same, with these augmentations instead of the mapper's."""
        mapper = copy.copy(self.mapper)
        if isinstance(mapper, TrainingMapper):
            mapper.steps = augmentations
        else:
            mapper.augmentations = T.AugmentationList(augmentations)
        return TrainingSamples(self.records, mapper, self.metadata)
