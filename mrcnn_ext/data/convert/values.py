# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Values of annotation files, checked: numbers, points, flags. ``where`` names file and entry."""

from __future__ import annotations

from ...coco.rle import FARTHEST
from ...errors import DataError
from ...messages import describe

__all__ = ["as_dict", "as_list", "flat_points", "is_true", "number", "size_of", "text"]


def number(value, where: str) -> float:
    """A finite number, also of a text.

    Raises:
        DataError: it is none, or beyond a million.
    """
    try:
        found = float(value) if isinstance(value, (int, float, str)) else float("nan")
    except (ValueError, OverflowError):
        found = float("nan")
    if isinstance(value, bool) or not abs(found) < FARTHEST:
        raise DataError(f"{where} is {describe(value)}, expected a number.")
    return found


def flat_points(values, where: str) -> list[float]:
    """[x1, y1, x2, …] of a list of pairs.

    Raises:
        DataError: it is no such list.
    """
    flat: list[float] = []
    for point in as_list(values, where):
        if not isinstance(point, (list, tuple)) or len(point) != 2:
            raise DataError(f"{where} has {describe(point)}, expected points [x, y].")
        flat += [number(v, where) for v in point]
    return flat


def as_list(value, where: str) -> list:
    """
    Raises:
        DataError: it is none.
    """
    if not isinstance(value, list):
        raise DataError(f"{where} is {describe(value)}, expected a list.")
    return value


def as_dict(value, where: str) -> dict:
    """
    Raises:
        DataError: it is none.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where} is {describe(value)}, expected an object.")
    return value


def text(value, where: str) -> str:
    """A text that is not empty; a number as one.

    Raises:
        DataError: it is none.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} is {describe(value)}, expected a text.")
    return value.strip()


def is_true(value) -> bool:
    """What tools write for "yes"."""
    return value is True or value == 1 or str(value).strip().lower() in ("1", "true", "yes", "on")


def size_of(width, height, where: str) -> tuple[int, int] | None:
    """Width and height that a file states, None if it states none.

    Raises:
        DataError: they are no whole numbers.
    """
    if width in (None, "", 0, "0") and height in (None, "", 0, "0"):
        return None
    sides = number(width, f"{where}: the width"), number(height, f"{where}: the height")
    if not all(side > 0 and side == int(side) for side in sides):
        raise DataError(
            f"{where}: the image has {describe(width)} x {describe(height)} pixels, expected two "
            "positive whole numbers."
        )
    return int(sides[0]), int(sides[1])
