# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of truth, and of detections coloured by what is right and wrong about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .colors import COLORS, DASHED, DASHES_GROUND, rgb
from .labels import Label, write_labels
from .primitives import View, contours, dashes, outline, tint

__all__ = ["Item", "draw_items"]

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


def draw_items(image: np.ndarray, items: Iterable[Item]) -> np.ndarray:
    """Outline items, largest first, and label them where there is room.

    Args:
        image: uint8 (H, W, 3), RGB.

    Returns:
        uint8, RGB; small images are enlarged and large ones made smaller.
    """
    longer = max(image.shape[:2])
    view = View.whole(image.shape, min(max(longer, _MIN_SIDE), _MAX_SIDE) / longer)
    canvas = view.image(image)
    labels = []
    for item in sorted(items, key=lambda i: -i.box[2] * i.box[3]):
        x, y, w, h = item.box
        (box,) = view.boxes(np.array([x, y, x + w, y + h]))
        _outline(canvas, item, box, view)
        labels.append(Label(item.label, box, rgb(COLORS[item.kind])))
    return write_labels(canvas, labels, max(14, max(canvas.shape[:2]) // 40))


def _outline(canvas: np.ndarray, item: Item, box: np.ndarray, view: View) -> None:
    color = rgb(COLORS[item.kind])
    thick = max(2, round(max(canvas.shape[:2]) / 320))
    if item.mask is None:
        x0, y0, x1, y1 = np.round(box).astype(np.int32)
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.int32)
        lines = [corners.clip(0, (canvas.shape[1] - 1, canvas.shape[0] - 1))[:, None]]
    else:
        patch = view.mask(item.mask)
        lines = contours(patch)
        if item.kind not in DASHED:
            tint(canvas, patch, color, 0.28)
    if item.kind in DASHED:
        dashes(canvas, lines, DASHES_GROUND, thick + 2)  # seen on any ground
        dashes(canvas, lines, color, thick)
    else:
        outline(canvas, lines, color, thick)
