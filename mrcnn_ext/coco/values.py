# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Values as a json file may hold them: which are ids, numbers, boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeGuard  # typing has it from Python 3.10 on

__all__ = ["is_box", "is_finite", "is_id", "is_number", "is_whole"]

_NUMBERS = {int, float}
_HUGE = 1e12  # no coordinate, area or score is larger; json has whole numbers beyond float, too


def is_id(value) -> TypeGuard[int | float | str]:
    """A number or a string: what may be an id. Lists, for example, cannot be looked up, nor NaN."""
    return isinstance(value, (int, float, str)) and value == value


def is_number(value) -> TypeGuard[float]:
    """A number, possibly NaN or infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value) -> TypeGuard[float]:
    """A number that is finite, of a magnitude that can be computed with."""
    return is_number(value) and -_HUGE < value < _HUGE


def is_box(value) -> TypeGuard[list[float]]:
    """[x, y, width, height]: four finite numbers, the sizes not negative."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return False
    # Types are compared first: a data set has many boxes, nearly all of plain numbers.
    if not (_NUMBERS.issuperset(map(type, value)) or all(map(is_number, value))):
        return False
    x, y, width, height = value
    return -_HUGE < x < _HUGE and -_HUGE < y < _HUGE and 0 <= width < _HUGE and 0 <= height < _HUGE
