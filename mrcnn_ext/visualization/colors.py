# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Colours of pictures: of judgements, of instances; text that can be read on them."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import hsv_to_rgb

__all__ = ["COLORS", "DASHED", "DASHES_GROUND", "INK", "LIGHT", "ink_on", "instance_color", "rgb"]

# By kind of error; also those of the report's plots and page.
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
DASHED = ("miss", "crowd")  # kinds whose outlines are dashed
DASHES_GROUND = (255, 255, 255)
LIGHT, INK = (248, 249, 250), (33, 37, 41)  # ground and text of captions and legends


def rgb(color: str) -> tuple[int, int, int]:
    """ "#rrggbb" as numbers from 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def ink_on(ground: tuple[int, ...]) -> str:
    """Black or white, whichever is legible on a colour."""
    red, green, blue = ground
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"


def instance_color(index: int) -> np.ndarray:
    """(3,) RGB from 0 to 1. Hues a golden angle apart: neighbours in a list are never alike."""
    return hsv_to_rgb((index * 0.61803 % 1.0, 0.85 if index % 2 else 0.65, 1.0))
