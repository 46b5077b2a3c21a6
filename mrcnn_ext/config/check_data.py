# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of training data: which are set, and whether their values can work."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from .bands import check_bands
from .check_values import changed_keys, unexpected, value_of
from .data_defaults import add_data_config
from .ranges import is_number

__all__ = ["check_data", "set_data_keys"]

_NODE = "MRCNN_EXT.DATA"


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
    check_bands(cfg)
