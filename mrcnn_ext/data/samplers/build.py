# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""From the keys of a config to a sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.utils.data
from torch.utils.data import Sampler

from ...errors import ConfigError
from .class_balanced import ClassBalancedSampling
from .repeat_factor import RepeatFactorSampling

__all__ = ["sampler_from_config"]

_KEY = "MRCNN_EXT.DATA.SAMPLER"


def _repeat_factor(cfg) -> RepeatFactorSampling:
    keys = cfg.MRCNN_EXT.DATA
    return RepeatFactorSampling(
        threshold=keys.SAMPLER_THRESHOLD,
        frequency=keys.SAMPLER_FREQUENCY,
        dataset_names=tuple(cfg.DATASETS.TRAIN),
    )


def _class_balanced(cfg) -> ClassBalancedSampling:
    return ClassBalancedSampling(dataset_names=tuple(cfg.DATASETS.TRAIN))


# A name of SAMPLERS in config/check_data.py -> what makes a sampler of the records
_MAKERS: dict[str, Callable] = {"repeat_factor": _repeat_factor, "class_balanced": _class_balanced}


def sampler_from_config(cfg, records: Sequence[dict] | torch.utils.data.Dataset) -> Sampler | None:
    """The sampler that ``MRCNN_EXT.DATA.SAMPLER`` names; None: Detectron2's, by its own key.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        records: of the training set, in the order that the loader has.

    Raises:
        ConfigError: the data set is no list of records.
        DataError: the records cannot be used; names the image.
    """
    name = cfg.MRCNN_EXT.DATA.SAMPLER
    if not name:
        return None
    if not isinstance(records, list):
        raise ConfigError(
            f"{_KEY} is '{name}', but the training set is a {type(records).__qualname__}; expected "
            "data sets that are lists of records, whose classes can be counted."
        )
    return _MAKERS[name](cfg)(records)
