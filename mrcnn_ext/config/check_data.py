# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of training data: which are set, and whether their values can work."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from ..errors import ConfigError
from .bands import check_bands
from .check_values import changed_keys, unexpected, value_of
from .data_defaults import add_data_config
from .ranges import Range, check_choices, check_ranges, is_number

__all__ = ["SAMPLERS", "SAMPLER_FREQUENCIES", "check_data", "set_data_keys"]

SAMPLERS = ("repeat_factor", "class_balanced")
SAMPLER_FREQUENCIES = ("images", "instances", "both")

_NODE = "MRCNN_EXT.DATA"
_CHOICES = {
    f"{_NODE}.SAMPLER": ("", *SAMPLERS),
    f"{_NODE}.SAMPLER_FREQUENCY": SAMPLER_FREQUENCIES,
}
_RANGES: dict[str, Range] = {f"{_NODE}.SAMPLER_THRESHOLD": (0.0, 1.0, "(]")}
# Of Detectron2's main branch; they make lists of images of their own.
_WEIGHTED = ("WeightedTrainingSampler", "WeightedCategoryTrainingSampler")


def set_data_keys(cfg) -> list[str]:
    """Full names of the keys of training data that differ from their defaults."""
    defaults = CfgNode()
    add_data_config(defaults, CfgNode)
    return changed_keys(cfg, _NODE, defaults.DATA)


def check_data(cfg) -> None:
    """Check the values of all keys of training data.

    Names and arguments of augmentations are checked where they are built, before training, too.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    entries = value_of(cfg, f"{_NODE}.AUGMENTATIONS")
    if not isinstance(entries, (list, tuple)):
        expected = "a list of names, and of [name, {argument: value}]"
        raise unexpected(f"{_NODE}.AUGMENTATIONS", entries, expected)
    share = value_of(cfg, f"{_NODE}.NEGATIVES")
    if not is_number(share) or not 0 <= share < 1:
        raise unexpected(
            f"{_NODE}.NEGATIVES", share, "a share of the images, from 0 to less than 1"
        )
    boxes_only = value_of(cfg, f"{_NODE}.BOXES_ONLY")
    if not isinstance(boxes_only, bool):
        raise unexpected(f"{_NODE}.BOXES_ONLY", boxes_only, "True or False")
    least = value_of(cfg, f"{_NODE}.MIN_AREA_LEFT")
    if not is_number(least) or least < 0:
        raise unexpected(f"{_NODE}.MIN_AREA_LEFT", least, "a number of pixels, 0 or more")
    check_choices(cfg, _CHOICES)
    check_ranges(cfg, _RANGES)
    _check_one_sampler(cfg)
    check_bands(cfg)


def _check_one_sampler(cfg) -> None:
    ours, theirs = value_of(cfg, f"{_NODE}.SAMPLER"), cfg.DATALOADER.SAMPLER_TRAIN
    if ours and theirs != "TrainingSampler":
        raise ConfigError(
            f"{_NODE}.SAMPLER is '{ours}', and DATALOADER.SAMPLER_TRAIN is '{theirs}': two samplers; "
            "expected one of them, with '' or 'TrainingSampler' for the other."
        )
    if theirs in _WEIGHTED and value_of(cfg, f"{_NODE}.NEGATIVES"):
        raise ConfigError(
            f"DATALOADER.SAMPLER_TRAIN is '{theirs}', which knows nothing of the images without "
            f"objects that {_NODE}.NEGATIVES keeps; expected one of the two."
        )
