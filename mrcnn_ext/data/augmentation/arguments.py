# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments of augmentations; each error names the argument and what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["check_pixel", "choice", "interval", "is_number", "number", "picture_size"]
__all__ += ["pixel_value", "side", "whole"]

_LONGEST = 32767  # pixels of a side, as OpenCV can have them


def is_number(value) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)


def number(name: str, value, low: float = -math.inf, high: float = math.inf) -> float:
    """A number in [low, high].

    Raises:
        ValueError: it is none.
    """
    if not is_number(value) or not low <= value <= high:
        raise _unexpected(name, value, f"a number{_range(low, high)}")
    return float(value)


def whole(name: str, value, low: int, high: float = math.inf) -> int:
    """A whole number in [low, high].

    Raises:
        ValueError: it is none.
    """
    if not is_number(value) or value != int(value) or not low <= value <= high:
        raise _unexpected(name, value, f"a whole number{_range(low, high)}")
    return int(value)


def interval(
    name: str, value, low: float = -math.inf, high: float = math.inf, *, integral: bool = False
) -> tuple[float, float]:
    """Two numbers in [low, high], the smaller first.

    Raises:
        ValueError: it is something else.
    """
    kind = "whole numbers" if integral else "numbers"
    expected = f"[least, greatest], two {kind}{_range(low, high)}"
    pair = _listed(value)
    if len(pair) != 2 or not all(is_number(v) and low <= v <= high for v in pair):
        raise _unexpected(name, value, expected)
    if pair[0] > pair[1] or (integral and any(v != int(v) for v in pair)):
        raise _unexpected(name, value, expected)
    return (int(pair[0]), int(pair[1])) if integral else (float(pair[0]), float(pair[1]))


def picture_size(name: str, value) -> tuple[int, int]:
    """(height, width) in pixels, of one whole number or of two.

    Raises:
        ValueError: it is something else.
    """
    pair = [value, value] if is_number(value) else _listed(value)
    if len(pair) != 2 or not all(is_number(v) and v == int(v) and 1 <= v <= _LONGEST for v in pair):
        expected = f"a side in pixels, or [height, width], up to {_LONGEST}"
        raise _unexpected(name, value, expected)
    return int(pair[0]), int(pair[1])


def side(name: str, value) -> int:
    """A side in pixels.

    Raises:
        ValueError: it is none.
    """
    return whole(name, value, 1, _LONGEST)


def check_pixel(name: str, value: float | Sequence[float], image: np.ndarray) -> None:
    """
    Raises:
        ValueError: the type of the picture cannot hold the value.
    """
    highest = float(np.max(value))
    if np.issubdtype(image.dtype, np.integer) and highest > np.iinfo(image.dtype).max:
        most = np.iinfo(image.dtype).max
        raise ValueError(f"{name} is {highest:g}, but pixels of this picture end at {most}")


def pixel_value(name: str, value) -> float | tuple[float, ...]:
    """A number, 0 or more, or a number for each band.

    Raises:
        ValueError: it is something else.
    """
    values = _listed(value)
    if not values:
        return number(name, value, 0)
    if not all(map(is_number, values)):
        raise _unexpected(name, value, "a number, or a number for each band")
    return tuple(map(float, values))


def choice(name: str, value, known: Sequence[str]) -> str:
    """One of some words.

    Raises:
        ValueError: it is none.
    """
    if value not in known:
        raise _unexpected(name, value, " or ".join(map(repr, known)))
    return value


def _listed(value) -> list:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def _range(low: float, high: float) -> str:
    if low > -math.inf and high < math.inf:
        return f" from {low:g} to {high:g}"
    return f", {low:g} or more" if low > -math.inf else ""


def _unexpected(name: str, value, expected: str) -> ValueError:
    return ValueError(f"{name} is {value!r}; expected {expected}")
