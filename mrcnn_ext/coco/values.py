# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Values as a json file may hold them: which are ids, numbers, boxes."""

from __future__ import annotations

__all__ = ["is_box", "is_finite", "is_id", "is_number", "is_whole"]

_HUGE = 1e12  # no coordinate, area or score is larger; json has whole numbers beyond float, too


def is_id(value) -> bool:
    """A number or a string: what may be an id. Lists, for example, cannot be looked up."""
    return isinstance(value, (int, float, str))


def is_number(value) -> bool:
    """A number, possibly NaN or infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value) -> bool:
    """A number that is finite, of a magnitude that can be computed with."""
    return is_number(value) and -_HUGE < value < _HUGE


def is_box(value) -> bool:
    """[x, y, width, height]: four finite numbers, the sizes not negative."""
    is_four = isinstance(value, (list, tuple)) and len(value) == 4
    return is_four and all(map(is_finite, value)) and min(value[2:]) >= 0
