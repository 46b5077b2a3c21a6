# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that several ops share."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["MAX_MAP_SIDE", "MAX_OUTPUT_SIDE", "two_sides", "whole_number"]

# Those of csrc/roi_align_checks.h: float32 knows every pixel up to the one, and cells are counted in
# 32 bits up to the other.
MAX_MAP_SIDE = 2**23 - 1
MAX_OUTPUT_SIDE = 2**15 - 1


def whole_number(name: str, value: float) -> int:
    """Return ``value`` as an int. Detectron2's callers give some whole numbers as float.

    Raises:
        ValueError: it is not a whole number; names the argument ``name``.
    """
    if not isinstance(value, float):
        return value  # an int, or torch.compile's symbol of one, which int() would make a constant
    if not value.is_integer():
        raise ValueError(f"{name} must be a whole number, not {value}.")
    return int(value)


def two_sides(name: str, size: float | Sequence[float]) -> tuple[int, int]:
    """Return (h, w) of a size given as one number for both or as a pair.

    Raises:
        ValueError: it is not one or two positive whole numbers up to ``MAX_OUTPUT_SIDE``; names the
            argument ``name``.
    """
    given = (size, size) if isinstance(size, (int, float)) else tuple(size)
    sides = tuple(whole_number(name, side) for side in given)
    if len(sides) != 2 or any(side < 1 for side in sides):
        raise ValueError(f"{name} must be one or two positive numbers, not {size!r}.")
    if any(side > MAX_OUTPUT_SIDE for side in sides):
        raise ValueError(f"{name} must be {MAX_OUTPUT_SIDE} at most, not {size!r}.")
    return sides
