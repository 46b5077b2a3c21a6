# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Text on pictures."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from matplotlib import get_data_path
from PIL import ImageFont

__all__ = ["font", "shortened"]


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def shortened(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
