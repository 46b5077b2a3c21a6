# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Weights of losses by class: their entries in a config, and the classes that they name."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY

from ..errors import ConfigError
from ..messages import shorten, similar
from .check_values import unexpected, value_of
from .ranges import is_number

__all__ = [
    "CLASS_WEIGHT_RULES",
    "check_class_names",
    "check_class_weights",
    "check_weighted_heads",
    "split_class_weights",
]

CLASS_WEIGHT_RULES = ("inverse_sqrt", "class_balanced")

_BOX, _MASK = "MRCNN_EXT.BOX_HEAD.CLASS_WEIGHTS", "MRCNN_EXT.MASK_HEAD.CLASS_WEIGHTS"
_CLS_LOSS = "MRCNN_EXT.BOX_HEAD.CLS_LOSS"
_LARGEST = 1e6  # far below what a loss in float16 or float32 bears, far above what is of use
_EXPECTED = (
    f"[name of a class, factor] for each class that has one, and first, perhaps, one of "
    f"{' or '.join(map(repr, CLASS_WEIGHT_RULES))} for all others"
)


def split_class_weights(entries: Sequence, key: str) -> tuple[str, dict[str, float]]:
    """The rule of CLASS_WEIGHTS, "" if there is none, and the factors by class.

    Raises:
        ConfigError: an entry is neither; names ``key``, which holds them.
    """
    if not isinstance(entries, (list, tuple)):
        raise unexpected(key, entries, _EXPECTED)
    rest = list(entries)
    rule = rest.pop(0) if rest and isinstance(rest[0], str) else ""
    if len(rest) < len(entries) and rule not in CLASS_WEIGHT_RULES:
        raise unexpected(f"{key}[0]", rule, _EXPECTED)
    factors: dict[str, float] = {}
    for index, entry in enumerate(rest, len(entries) - len(rest)):
        is_pair = isinstance(entry, (list, tuple)) and len(entry) == 2
        if not is_pair or not isinstance(entry[0], (str, int)) or not is_number(entry[1]):
            raise unexpected(f"{key}[{index}]", entry, _EXPECTED)
        name, factor = str(entry[0]), float(entry[1])
        if not 0 <= factor <= _LARGEST:
            raise unexpected(
                f"{key}[{index}]", entry, f"a factor of 0 or more, at most {_LARGEST:,.0f}"
            )
        if name in factors:
            raise ConfigError(f"{key} names '{name}' twice; expected one factor for each class.")
        factors[name] = factor
    return rule, factors


def check_class_names(names: Sequence[str], classes: Sequence[str], what: str) -> None:
    """
    Args:
        names: that must be some of ``classes``.
        classes: of the training set.
        what: names them, such as a key.

    Raises:
        ConfigError: one is none; names it and similar ones.
    """
    for name in names:
        if name not in classes:
            near = ", ".join(similar(name, classes))
            raise ConfigError(
                f"{what} names '{name}', which is no class of the training set; "
                + (f"similar: {near}; " if near else "")
                + f"there are: {shorten(classes, 20)}."
            )


def check_class_weights(cfg, classes: Sequence[str] = ()) -> None:
    """Check the entries of both keys, and their names where the classes are known.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        classes: of the training set; empty: not known yet.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    for key in (_BOX, _MASK):
        rule, factors = split_class_weights(value_of(cfg, key), key)
        if key == _BOX and rule and value_of(cfg, _CLS_LOSS) == "class_balanced":
            raise ConfigError(
                f"{key}[0] is '{rule}', and {_CLS_LOSS} is 'class_balanced': two rules for the same "
                "weights; expected one of them."
            )
        if classes:
            names = [str(name) for name in classes]
            check_class_names(list(factors), names, key)
            if not any(factors.get(name, 1) for name in names):
                raise ConfigError(
                    f"{key} gives every class the factor 0, so that no object counts in the loss; "
                    "expected a factor above 0 for one class or more."
                )


def check_weighted_heads(cfg) -> None:
    """Check that the heads read what is said of their losses.

    Raises:
        ConfigError: a loss or weights are chosen, and Detectron2's own head does not read the key.
    """
    model, name = cfg.MODEL, cfg.MODEL.ROI_HEADS.NAME
    for key in (_CLS_LOSS, _BOX):
        if value_of(cfg, key) and _is_stock(ROI_HEADS_REGISTRY, name):
            raise ConfigError(
                f"{key} is {value_of(cfg, key)!r}, which {name} does not read; RoI heads of this "
                "package do (MODEL.ROI_HEADS.NAME MrcnnExt…)."
            )
    name = model.ROI_MASK_HEAD.NAME
    if model.MASK_ON and value_of(cfg, _MASK) and _is_stock(ROI_MASK_HEAD_REGISTRY, name):
        raise ConfigError(
            f"{_MASK} is {value_of(cfg, _MASK)!r}, which {name} does not read; mask heads of this "
            "package do, such as MODEL.ROI_MASK_HEAD.NAME 'MrcnnExtFCNMaskHead'."
        )


def _is_stock(registry, name: str) -> bool:
    known = name in registry  # others are another error
    return known and registry.get(name).__module__.startswith("detectron2.")
