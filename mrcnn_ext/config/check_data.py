# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of training data: which are set, and whether their values can work."""

from __future__ import annotations

import math

from fvcore.common.config import CfgNode

from .check_values import plain, unexpected, value_of
from .data_defaults import add_data_config

__all__ = ["check_data", "set_data_keys"]

_NODE = "MRCNN_EXT.DATA"


def set_data_keys(cfg) -> list[str]:
    """Full names of the keys of training data that differ from their defaults."""
    defaults = CfgNode()
    add_data_config(defaults, CfgNode)
    return [
        f"{_NODE}.{name}"
        for name, default in defaults.DATA.items()
        if plain(value_of(cfg, f"{_NODE}.{name}")) != plain(default)
    ]


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
    is_number = isinstance(share, (int, float)) and not isinstance(share, bool)
    if not is_number or not 0 <= share < 1:
        raise unexpected(
            f"{_NODE}.NEGATIVES", share, "a share of the images, from 0 to less than 1"
        )
    boxes_only = value_of(cfg, f"{_NODE}.BOXES_ONLY")
    if not isinstance(boxes_only, bool):
        raise unexpected(f"{_NODE}.BOXES_ONLY", boxes_only, "True or False")
    least = value_of(cfg, f"{_NODE}.MIN_AREA_LEFT")
    is_number = isinstance(least, (int, float)) and not isinstance(least, bool)
    if not is_number or not 0 <= least < math.inf:
        raise unexpected(f"{_NODE}.MIN_AREA_LEFT", least, "a number of pixels, 0 or more")
