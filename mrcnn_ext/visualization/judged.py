# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of single images: truth, and detections coloured by what is right and wrong about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as mask_util

from .labels import font

__all__ = ["COLORS", "Item", "draw_items"]

# By kind of error; also those of the plots and of the page.
COLORS = {
    "right": "#2fa84f",
    "cls": "#d63384",
    "loc": "#f28c28",
    "both": "#8c564b",
    "dup": "#d4b106",
    "bkg": "#e02b2b",
    "miss": "#3d7eff",
    "truth": "#12a5b5",
    "crowd": "#9aa0a6",
}
_MIN_SIDE, _MAX_SIDE = 640, 1000  # pixels of the longer side that are drawn on


@dataclass
class Item:
    """Something to draw.

    Attributes:
        kind: a key of COLORS.
        label: may be empty.
        box: x, y, width, height in pixels of the image.
        mask: RLE, or None.
    """

    kind: str
    label: str
    box: list[float]
    mask: dict | None

    @property
    def dashed(self) -> bool:
        return self.kind in ("miss", "crowd")


def draw_items(image: np.ndarray, items: Iterable[Item]) -> np.ndarray:
    """Outline items, largest first, and label them where there is room.

    Args:
        image: uint8 (H, W, 3), RGB.

    Returns:
        uint8, RGB; small images are enlarged and large ones made smaller.
    """
    longer = max(image.shape[:2])
    scale = min(max(longer, _MIN_SIDE), _MAX_SIDE) / longer
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    kind = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    canvas = cv2.resize(image, size, interpolation=kind) if scale != 1 else image.copy()
    items = sorted(items, key=lambda i: -i.box[2] * i.box[3])
    for item in items:
        _outline(canvas, item, scale)
    return _write_labels(canvas, items, scale)


# ----------------------------------------------------------------------------------------- outlines


def _outline(canvas: np.ndarray, item: Item, scale: float) -> None:
    color = _rgb(item.kind)
    thick = max(2, round(max(canvas.shape[:2]) / 320))
    contours = _contours(canvas, item, scale)
    if item.mask is not None and not item.dashed:
        tint = np.zeros(canvas.shape[:2], np.uint8)
        cv2.drawContours(tint, contours, -1, 255, cv2.FILLED)
        inside = tint > 0
        canvas[inside] = (0.72 * canvas[inside] + 0.28 * np.array(color)).astype(np.uint8)
    for contour in contours:
        line = contour[:, 0].astype(float)
        if item.dashed:
            _dashes(canvas, line, (255, 255, 255), thick + 2)  # seen on any ground
            _dashes(canvas, line, color, thick)
        else:
            cv2.polylines(canvas, [contour], True, color, thick, cv2.LINE_AA)


def _contours(canvas: np.ndarray, item: Item, scale: float) -> list[np.ndarray]:
    height, width = canvas.shape[:2]
    if item.mask is None:
        x, y, w, h = (round(v * scale) for v in item.box)
        corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
        points = np.array(corners).clip(0, (width - 1, height - 1))
        return [points.astype(np.int32)[:, None]]
    mask = mask_util.decode(item.mask)
    if mask.shape != (height, width):
        smooth = cv2.resize(
            mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
        )
        mask = (smooth >= 0.5).astype(np.uint8)
    return list(cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0])


def _dashes(canvas: np.ndarray, line: np.ndarray, color: tuple, thick: int) -> None:
    """A closed line in dashes of equal length."""
    ring = np.concatenate([line, line[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(ring, axis=0).T))])
    dash = 4.0 * max(2, thick if thick % 2 == 0 else thick - 1)
    count = max(2, round(along[-1] / (2 * dash)))
    for start in np.arange(count) * along[-1] / count:
        stops = np.linspace(start, start + 0.55 * along[-1] / count, 6)
        points = np.stack([np.interp(stops, along, ring[:, axis]) for axis in (0, 1)], axis=1)
        shifted = np.round(points * 16).astype(np.int32)[:, None]
        cv2.polylines(canvas, [shifted], False, color, thick, cv2.LINE_AA, shift=4)


# ------------------------------------------------------------------------------------------- labels


def _write_labels(canvas: np.ndarray, items: list[Item], scale: float) -> np.ndarray:
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    face = font(max(14, max(canvas.shape[:2]) // 40))
    taken: list[tuple[float, float, float, float]] = []
    # The small ones last in drawing, first in writing: they have less room.
    for item in reversed(items):
        if not item.label:
            continue
        size = face.getlength(item.label) + 8, face.size + 6
        place = _free_place(item, scale, size, picture.size, taken)
        if place is None:
            continue
        taken.append(place)
        draw.rounded_rectangle(place, 3, fill=COLORS[item.kind], outline="white")
        middle = (place[0] + 4, (place[1] + place[3]) / 2)
        draw.text(middle, item.label, _ink_on(item.kind), face, anchor="lm")
    return np.asarray(picture)


def _free_place(item: Item, scale: float, size, picture_size, taken):
    """Where a label overlaps no other: above its object, below, inside; None if nowhere."""
    x, y, w, h = (v * scale for v in item.box)
    wide, high = size
    for left, top in (
        (x, y - high - 1), (x, y + h + 1), (x + w - wide, y - high - 1), (x + 2, y + 2),
        (x + w + 2, y), (x - wide - 2, y), (x + w - wide, y + h + 1), (x, y + h - high - 2),
    ):  # fmt: skip
        left = min(max(left, 0), picture_size[0] - wide - 1)
        if not 0 <= top <= picture_size[1] - high - 1:
            continue
        place = (left, top, left + wide, top + high)
        if not any(
            place[0] < t[2] and t[0] < place[2] and place[1] < t[3] and t[1] < place[3]
            for t in taken
        ):
            return place
    return None


def _rgb(kind: str) -> tuple[int, int, int]:
    text = COLORS[kind]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _ink_on(kind: str) -> str:
    red, green, blue = _rgb(kind)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"
