# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures side by side, with captions and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .colors import COLORS, DASHED, INK, LIGHT
from .labels import font, shortened

__all__ = ["GAP", "captioned", "contact_sheet", "legend_strip", "sheet"]

GAP = 8  # pixels between pictures


def captioned(picture: np.ndarray, caption: str, bar: int | None = None) -> np.ndarray:
    """A picture with a line of text over it, ``bar`` pixels high."""
    height, width = picture.shape[:2]
    bar = bar or 2 * max(13, width // 36)
    face = font(bar // 2)
    out = Image.new("RGB", (width, height + bar), LIGHT)
    out.paste(Image.fromarray(picture), (0, bar))
    text = shortened(caption, face, width - 8)
    ImageDraw.Draw(out).text((4, bar // 2), text, INK, face, anchor="lm")
    return np.array(out)


def contact_sheet(images: Sequence[np.ndarray], columns: int, gap: int = GAP) -> np.ndarray:
    """Put pictures of any sizes side by side on a light ground.

    Args:
        images: uint8 (H, W, 3), RGB.
        columns: how many stand beside each other.
        gap: pixels between them.

    Raises:
        ValueError: no pictures, or fewer than one column.
    """
    if not images or columns < 1:
        raise ValueError(f"a sheet of {len(images)} pictures in {columns} columns")
    columns = min(columns, len(images))
    width = max(image.shape[1] for image in images)
    rows = []
    for start in range(0, len(images), columns):
        row = images[start : start + columns]
        height = max(image.shape[0] for image in row)
        canvas = np.full((height + gap, columns * (width + gap), 3), LIGHT, dtype=np.uint8)
        for column, image in enumerate(row):
            left = column * (width + gap)
            canvas[: image.shape[0], left : left + image.shape[1]] = image
        rows.append(canvas)
    sheet = np.concatenate(rows)
    return sheet[: len(sheet) - gap, : sheet.shape[1] - gap]


def sheet(
    panels: Sequence[np.ndarray], captions: Sequence[str], strip: np.ndarray | None = None
) -> np.ndarray:
    """Panels of equal size side by side, a caption over each, a legend as wide below."""
    row = contact_sheet([captioned(p, c) for p, c in zip(panels, captions)], len(panels))
    return row if strip is None else np.concatenate([row, strip])


def legend_strip(
    entries: Sequence[tuple[str, str]], width: int, colors: Mapping[str, str] = COLORS
) -> np.ndarray:
    """A legend as wide as a sheet: (kind, text) each; wraps into lines."""
    face = font(17)
    line, swatch = 30, 18
    places, x, y = [], 4.0, 0
    for kind, text in entries:
        needed = swatch + 8 + face.getlength(text) + 22
        if x + needed > width and x > 4:
            x, y = 4.0, y + line
        places.append((kind, text, x, y))
        x += needed
    picture = Image.new("RGB", (width, y + line), LIGHT)
    draw = ImageDraw.Draw(picture)
    for kind, text, left, top in places:
        box = (left, top + 7, left + swatch, top + 7 + 16)
        if kind in DASHED:
            for start in (0, 7, 14):
                draw.line((left + start, top + 15, left + start + 4, top + 15), colors[kind], 4)
        else:
            draw.rectangle(box, fill=colors[kind])
        draw.text((left + swatch + 8, top + line // 2), text, INK, face, anchor="lm")
    return np.asarray(picture)
