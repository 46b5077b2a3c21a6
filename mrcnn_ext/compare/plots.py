# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Plots of a comparison; ``mrcnn_ext.page.render`` makes pictures of them."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..coco.areas import AREA_NAMES
from ..page import line_color
from .kind import HeadKind
from .results import Comparison
from .statistics import mean, spread

__all__ = ["plot_accuracy_and_cost", "plot_differences", "plot_sizes"]


def plot_accuracy_and_cost(c: Comparison, kind: HeadKind) -> Figure:
    """A measure at the true boxes and AP over time for 100 RoIs; bars are over seeds."""
    figure = Figure(figsize=(11.3, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    column, title = kind.measures[1]
    metric, ap = kind.ap
    for axis, label_of_axis in zip(panels, (f"{title} at the true boxes, %", f"{ap}, %")):
        for name in c.done:
            cost = c.costs.get(name, {}).get("milliseconds")
            is_ap = axis is panels[1]
            values = c.ap(name, metric) if is_ap else c.at_true_boxes(name, column)
            numbers = list(values.values())
            if cost is None or not numbers:
                continue
            color = line_color(c.names.index(name))
            error = spread(numbers) if len(numbers) > 1 else None
            label = name if axis is panels[0] else None
            axis.errorbar(
                cost, mean(numbers), error, fmt="o", ms=8, capsize=3, color=color, label=label
            )
        axis.set(xlabel="ms for 100 RoIs, pooling included", ylabel=label_of_axis)
        axis.margins(0.15)
        axis.set_xlim(0, axis.get_xlim()[1])
        axis.set_ylim(max(0, axis.get_ylim()[0]), axis.get_ylim()[1])
        axis.grid(alpha=1)
    _legend(figure, len(c.done))
    return figure


def plot_sizes(c: Comparison, kind: HeadKind) -> Figure:
    """Two measures at the true boxes by size, for sizes that occur; lines: deviation over seeds."""
    figure = Figure(figsize=(11.3, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=kind.one_scale)
    width = 0.8 / max(1, len(c.done))
    first = next(iter(c.runs[c.done[0]].values())).objects
    areas = [area for area in AREA_NAMES if c.chosen(first, area).any()]
    for axis, (measure, title) in zip(panels, kind.measures):
        for place, name in enumerate(c.done):
            values = [list(c.at_true_boxes(name, measure, area).values()) for area in areas]
            at = np.arange(len(areas)) + (place - (len(c.done) - 1) / 2) * width
            errors = [spread(v) for v in values] if len(values[0]) > 1 else None
            color = line_color(c.names.index(name))
            label = name if axis is panels[0] else None
            heights = [mean(v) for v in values]
            axis.bar(at, heights, 0.9 * width, yerr=errors, color=color, label=label, capsize=2,
                     error_kw={"lw": 1, "ecolor": "#808890"})  # fmt: skip
        axis.set_xticks(range(len(areas)), areas)
        axis.set_title(f"{title} at the true boxes, %")
        axis.grid(axis="y")
        axis.tick_params(axis="x", length=0)
        axis.set_ylim(bottom=0)
    _legend(figure, len(c.done))
    return figure


def plot_differences(c: Comparison, kind: HeadKind) -> Figure:
    """Differences to the baseline with their intervals, a row for each head."""
    others = [name for name in c.done if name != c.baseline]
    figure = Figure(figsize=(11.3, 1.2 + 0.45 * len(others)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axis, (measure, title) in zip(panels, kind.measures):
        for row, name in enumerate(others):
            found = c.difference(name, measure)
            if found is None:
                continue
            color = line_color(c.names.index(name))
            axis.plot([found.low, found.high], [row, row], color=color, lw=3, solid_capstyle="butt")
            axis.plot(found.value, row, "o", color=color, ms=8)
        axis.axvline(0, color="#808890", lw=1)
        axis.set_title(f"{title}: difference to {c.baseline}, points")
        axis.set_yticks(range(len(others)), others)
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(len(others) - 0.5, -0.5)
        axis.grid(axis="x")
    return figure


def _legend(figure: Figure, count: int) -> None:
    if count:
        figure.legend(loc="outside lower center", ncols=min(4, count))
