# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Text on pictures: labels where there is room for them, captions that fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from .colors import ink_on

__all__ = ["Label", "font", "shortened", "write_labels"]

Place = tuple[float, float, float, float]


class Label(NamedTuple):
    """Text for an object.

    Attributes:
        text: nothing is written if it is empty.
        box: x0, y0, x1, y1 of the object in pixels of the picture.
        ground: RGB from 0 to 255.
    """

    text: str
    box: Sequence[float]
    ground: tuple[int, int, int]


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, ``size`` pixels high."""
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def shortened(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """``text``, cut so that it is at most ``width`` pixels long."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def write_labels(
    picture: np.ndarray, labels: Sequence[Label], size: int, *, on_boxes: bool = False
) -> np.ndarray:
    """Write labels into ``picture`` so that they do not overlap.

    Args:
        picture: uint8 (H, W, 3), RGB; is changed.
        labels: later ones choose their place first: give small objects last, they have less room.
        size: of the text in pixels.
        on_boxes: labels begin at the upper corner of their box, without a frame, and overlap if there
            is no room. Otherwise they stand over or beside it, framed, and are left out.

    Returns:
        the same picture.
    """
    face, pad = font(size), 2 if on_boxes else 4
    high, limits = size + pad + 2, (picture.shape[1], picture.shape[0])
    placed: list[tuple[Place, Label]] = []
    below: list[tuple[Place, Label]] = []  # what would cover others
    for label in reversed(labels):
        wide = face.getlength(label.text) + 2 * pad
        places = list(_places(label.box, wide, high, on_boxes, limits)) if label.text else []
        free = (p for p in places if not any(_overlap(p, taken) for taken, _ in placed))
        if place := next(free, None):
            placed.append((place, label))
        elif places and on_boxes:
            below.append((places[0], label))
    for place, label in (*reversed(below), *placed):
        _write(picture, place, label, face, pad, outline=None if on_boxes else "white")
    return picture


def _write(picture: np.ndarray, place: Place, label: Label, face, pad: int, outline) -> None:
    """Write one label; only its part of the picture is copied."""
    left, top = (max(0, math.floor(side) - 1) for side in place[:2])
    part = picture[top : math.ceil(place[3]) + 2, left : math.ceil(place[2]) + 2]
    shown = Image.fromarray(part)
    draw = ImageDraw.Draw(shown)
    x0, y0, x1, y1 = place[0] - left, place[1] - top, place[2] - left, place[3] - top
    draw.rounded_rectangle((x0, y0, x1, y1), 3, fill=label.ground, outline=outline)
    draw.text((x0 + pad, (y0 + y1) / 2), label.text, ink_on(label.ground), face, anchor="lm")
    part[:] = shown


def _places(box, wide: float, high: int, on_box: bool, size: tuple[int, int]) -> Iterator[Place]:
    """Where a label could stand within a picture of (width, height) ``size``, the best first."""
    x0, y0, x1, y1 = box
    corners = [
        (x0, y0 - high - 1), (x0, y1 + 1), (x1 - wide, y0 - high - 1), (x0 + 2, y0 + 2),
        (x1 + 2, y0), (x0 - wide - 2, y0), (x1 - wide, y1 + 1), (x0, y1 - high - 2),
    ]  # fmt: skip
    if on_box:  # a small object would be covered: under it, or else over it
        first = (x0, max(y0 - 3, 0)) if y1 - y0 >= 2 * high else (x0, y1 + 2)
        corners = [first, *corners]
    for left, top in corners:
        left = min(max(left, 0), size[0] - wide - 1)
        if 0 <= top <= size[1] - high - 1:
            yield left, top, left + wide, top + high


def _overlap(a: Place, b: Place) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
