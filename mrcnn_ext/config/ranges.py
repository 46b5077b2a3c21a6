# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Check values of a config against tables of what they can be."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .check_values import unexpected, value_of

__all__ = ["Range", "check_choices", "check_ranges", "check_whole_numbers", "is_number"]

# Least value, greatest value, and whether each of them itself is allowed: "[" and "]" or "(" and ")"
Range = tuple[float, float, str]


def is_number(value) -> bool:
    """Whether it is a finite number."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def check_ranges(cfg, ranges: Mapping[str, Range]) -> None:
    """
    Args:
        ranges: key -> what its number can be.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    for key, (low, high, ends) in ranges.items():
        value = value_of(cfg, key)
        if not is_number(value) or not _is_inside(value, low, high, ends):
            raise unexpected(key, value, _describe_range(low, high, ends))


def check_whole_numbers(cfg, least: Mapping[str, float]) -> None:
    """
    Args:
        least: key -> its least value; -inf: any.

    Raises:
        ConfigError: as :func:`check_ranges`.
    """
    for key, low in least.items():
        value = value_of(cfg, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            more = f", {low} or more" if math.isfinite(low) else ""
            raise unexpected(key, value, f"a whole number{more}")


def check_choices(cfg, choices: Mapping[str, tuple[str, ...]]) -> None:
    """
    Args:
        choices: key -> its values.

    Raises:
        ConfigError: as :func:`check_ranges`.
    """
    for key, known in choices.items():
        value = value_of(cfg, key)
        if value not in known:
            raise unexpected(key, value, " or ".join(map(repr, known)))


def _is_inside(value: float, low: float, high: float, ends: str) -> bool:
    above = value >= low if ends[0] == "[" else value > low
    return above and (value <= high if ends[1] == "]" else value < high)


def _describe_range(low: float, high: float, ends: str) -> str:
    above = f"at least {low:g}" if ends[0] == "[" else f"more than {low:g}"
    if high == math.inf:
        return f"a number, {above}"
    return f"a number, {above} and {'at most' if ends[1] == ']' else 'less than'} {high:g}"
