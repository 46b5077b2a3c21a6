# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Building blocks of the HTML pages: tables, plots for light and dark, pictures, the page."""

from .files import data_uri, jpeg_bytes, png_bytes, staged_folder
from .html import render_page
from .plots import DPI, THEMES, Plot, ShownPlot, line_color, render, shown_plot
from .tables import Cell, Table, count, number

__all__ = [
    "DPI",
    "THEMES",
    "Cell",
    "Plot",
    "ShownPlot",
    "Table",
    "count",
    "data_uri",
    "jpeg_bytes",
    "line_color",
    "number",
    "png_bytes",
    "render",
    "render_page",
    "shown_plot",
    "staged_folder",
]
