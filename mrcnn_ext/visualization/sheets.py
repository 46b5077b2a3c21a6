# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures side by side, with captions and a legend."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from .judged import COLORS
from .labels import font, shortened

__all__ = ["legend_strip", "sheet"]

_GAP = 8
_LIGHT, _INK = (248, 249, 250), (33, 37, 41)


def sheet(panels: list[np.ndarray], captions: list[str], strip: np.ndarray) -> np.ndarray:
    """Panels of equal size side by side, a caption over each, a legend below."""
    height, width = panels[0].shape[:2]
    face = font(max(13, width // 36))
    bar = round(2 * face.size)
    picture = Image.new(
        "RGB", (len(panels) * (width + _GAP) - _GAP, height + bar + strip.shape[0]), _LIGHT
    )
    draw = ImageDraw.Draw(picture)
    for index, (panel, caption) in enumerate(zip(panels, captions)):
        x = index * (width + _GAP)
        picture.paste(Image.fromarray(panel), (x, bar))
        draw.text((x + 4, bar // 2), shortened(caption, face, width - 8), _INK, face, anchor="lm")
    picture.paste(Image.fromarray(strip), (0, height + bar))
    return np.asarray(picture)


def legend_strip(
    entries: list[tuple[str, str]], width: int, colors: Mapping[str, str] = COLORS
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
    picture = Image.new("RGB", (width, y + line), _LIGHT)
    draw = ImageDraw.Draw(picture)
    for kind, text, left, top in places:
        box = (left, top + 7, left + swatch, top + 7 + 16)
        if kind in ("miss", "crowd"):
            for start in (0, 7, 14):
                draw.line((left + start, top + 15, left + start + 4, top + 15), colors[kind], 4)
        else:
            draw.rectangle(box, fill=colors[kind])
        draw.text((left + swatch + 8, top + line // 2), text, _INK, face, anchor="lm")
    return np.asarray(picture)
