# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Plots in the style of a page, each once for light and once for dark pages."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .files import data_uri

__all__ = ["DPI", "THEMES", "Plot", "ShownPlot", "line_color", "render", "shown_plot"]

THEMES = {
    "light": {"ink": "#24292f", "faint": "#d0d7de", "ground": "#ffffff"},
    "dark": {"ink": "#d6dbe1", "faint": "#3b434d", "ground": "#1b2129"},
}
_LINE_COLORS = (
    "#3b76e8",
    "#ef8121",
    "#1fa187",
    "#a55fd6",
    "#d9406f",
    "#8f8a3a",
    "#4fb3d9",
    "#7d8794",
)
DPI = 160

Plot = Callable[[], Figure]


@dataclass
class ShownPlot:
    """A plot for ``macros.html``: data URIs for light and dark pages, and its size in CSS pixels."""

    light: str
    dark: str
    alt: str
    width: int
    height: int


def render(plot: Plot, theme: str) -> bytes:
    """PNG of what ``plot`` draws in the style of a theme."""
    colors = THEMES[theme]
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "grid.linewidth": 0.7,
        "grid.color": colors["faint"],
        "axes.edgecolor": colors["faint"],
        "axes.facecolor": colors["ground"],
        "figure.facecolor": colors["ground"],
        "savefig.facecolor": colors["ground"],
        **dict.fromkeys(
            ["text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"],
            colors["ink"],
        ),
    }
    with matplotlib.rc_context(style):
        figure = plot()
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def line_color(index: int) -> str:
    """Colour of the index-th thing that is compared, in tables and plots; "#rrggbb"."""
    return _LINE_COLORS[index % len(_LINE_COLORS)]


def shown_plot(folder: Path, name: str, plot: Plot, alt: str) -> ShownPlot:
    """Draw a plot for light and dark pages; write ``NAME.png`` and ``NAME_dark.png`` to ``folder``."""
    files = {}
    for theme in THEMES:
        files[theme] = render(plot, theme)
        suffix = "" if theme == "light" else f"_{theme}"
        (folder / f"{name}{suffix}.png").write_bytes(files[theme])
    with Image.open(io.BytesIO(files["light"])) as picture:
        width, height = (round(side * 100 / DPI) for side in picture.size)  # 100 to the inch
    uris = {theme: data_uri(data, "png") for theme, data in files.items()}
    return ShownPlot(**uris, alt=alt, width=width, height=height)
