# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Plots of the report."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..page import line_color
from ..visualization.colors import COLORS
from .error_kinds import FALSE_KINDS, IGNORED, KINDS, RIGHT

__all__ = ["KIND_NAMES", "has_class_curves", "plot_calibration", "plot_class_curves"]
__all__ += ["plot_curves", "plot_error_costs", "plot_error_counts", "plot_scores"]

KIND_NAMES = {
    "cls": "classification",
    "loc": "localisation",
    "both": "both",
    "dup": "duplicate",
    "bkg": "background",
    "miss": "missed",
}
_MULTIPLES = 12  # classes up to which each gets a curve of its own


def plot_curves(analyses: list) -> Figure:
    """Precision over recall, the mean over classes: at IoU 0.5, 0.75, and over all thresholds."""
    figure = Figure(figsize=(11.3, 3.5), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    recall = np.linspace(0, 1, 101)
    for axis, iou, title in zip(
        panels, (0.5, 0.75, None), ("IoU 0.50", "IoU 0.75", "mean of IoU 0.50 to 0.95")
    ):
        for index, analysis in enumerate(analyses):
            label = analysis.name if axis is panels[0] else None
            _curve(axis, recall, analysis.curves.curve(iou), index, label)
        _unit_axes(axis, title, "recall")
    panels[0].set_ylabel("precision")
    _legend_below(figure, len(analyses))
    return figure


def has_class_curves(analyses: list) -> bool:
    """Whether there is more than one class, and few enough for a plot each."""
    number = int((analyses[0].instances[:, 0] > 0).sum())
    return 1 < number <= _MULTIPLES


def plot_class_curves(analyses: list, names: list[str]) -> Figure:
    """The same at IoU 0.5 for each class that has instances."""
    shown = [k for k in range(len(names)) if analyses[0].instances[k, 0] > 0]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(11.3, 0.5 + 2.25 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    recall = np.linspace(0, 1, 101)
    for axis in panels.ravel()[len(shown) :]:
        axis.set_visible(False)
    for place, (axis, k) in enumerate(zip(panels.ravel(), shown)):
        for index, analysis in enumerate(analyses):
            label = analysis.name if place == 0 else None
            _curve(axis, recall, analysis.curves.curve(0.5, k), index, label)
        last_row = place + columns >= len(shown)
        _unit_axes(axis, _short(names[k], 24), "recall" if last_row else "")
        axis.tick_params(labelbottom=last_row)
        if place % columns == 0:
            axis.set_ylabel("precision")
    _legend_below(figure, len(analyses))
    return figure


def plot_error_costs(analyses: list) -> Figure:
    """What each kind of error costs, in AP; beside it what false positives and negatives cost."""
    count = len(analyses)
    figure = Figure(figsize=(11.3, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=[3, 1.15])
    width = min(0.8 / count, 0.5)
    groups = (
        (KINDS, [KIND_NAMES[k] for k in KINDS], "one kind fixed"),
        (("fp", "fn"), ["false\npositives", "false\nnegatives"], "all of them fixed"),
    )
    for axis, (keys, labels, title) in zip(panels, groups):
        top = 0.0
        for index, analysis in enumerate(analyses):
            heights = [100 * analysis.delta_ap[key] for key in keys]
            places = np.arange(len(keys)) + (index - (count - 1) / 2) * width
            bars = axis.bar(
                places, heights, width * 0.92, color=line_color(index),
                label=analysis.name if axis is panels[0] else None,
            )  # fmt: skip
            top = max(top, np.nanmax([*heights, 0.0]))
            if count <= 3:
                axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=7.5)
        axis.set_xticks(range(len(keys)), labels)
        axis.set_ylim(0, max(1.12 * top, 0.5))
        axis.set_xlim(-0.6, len(keys) - 0.4)
        axis.set_title(title, loc="left")
        axis.grid(axis="y")
        axis.tick_params(length=0)
    panels[0].set_ylabel("ΔAP50, points")
    _legend_below(figure, count)
    return figure


def plot_error_counts(analyses: list) -> Figure:
    """How many errors of each kind, stacked, one bar for each result file."""
    count = len(analyses)
    figure = Figure(figsize=(11.3, 1.15 + 0.42 * count), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(count)
    totals = [max(1, sum(a.counts.values())) for a in analyses]
    for kind in KINDS:
        values = np.array([a.counts[kind] for a in analyses], dtype=float)
        axis.barh(
            range(count), values, left=left, color=COLORS[kind], height=0.62,
            label=KIND_NAMES[kind], linewidth=0,
        )  # fmt: skip
        for row, value in enumerate(values):
            if value > 0.03 * max(totals):
                axis.text(
                    left[row] + value / 2, row, f"{value:,.0f}", ha="center", va="center",
                    color="white" if kind not in ("dup", "loc") else "#222222", fontsize=8,
                )  # fmt: skip
        left += values
    axis.set_yticks(range(count), [_short(a.name, 28) for a in analyses])
    axis.invert_yaxis()
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axis.set_xlabel("errors (all detections, whatever their score)")
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=6)
    return figure


def plot_scores(analyses: list) -> Figure:
    """Scores of right and wrong detections."""
    count = len(analyses)
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(11.3, 0.6 + 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    scores = np.concatenate([a.kinds.scores for a in analyses] + [np.array([0.0, 1.0])])
    bins = np.linspace(scores.min(), scores.max(), 21)
    for axis in panels.ravel()[count:]:
        axis.set_visible(False)
    for place, (axis, analysis) in enumerate(zip(panels.ravel(), analyses)):
        kinds = analysis.kinds
        groups = [kinds.scores[kinds.kind == RIGHT]]
        groups += [kinds.scores[kinds.kind == RIGHT + 1 + i] for i in range(len(FALSE_KINDS))]
        axis.hist(
            groups, bins, stacked=True, color=[COLORS[k] for k in ("right", *FALSE_KINDS)],
            label=["right", *(KIND_NAMES[k] for k in FALSE_KINDS)] if place == 0 else None,
            linewidth=0,
        )  # fmt: skip
        axis.set_title(_short(analysis.name, 32), loc="left")
        if place + columns >= count:
            axis.set_xlabel("score")
        axis.grid(axis="y")
        if place % columns == 0:
            axis.set_ylabel("detections")
        if not (kinds.kind != IGNORED).any():
            axis.text(0.5, 0.5, "no detections", ha="center", transform=axis.transAxes)
    figure.legend(loc="outside lower center", ncols=6)
    return figure


def plot_calibration(analyses: list) -> Figure:
    """Precision over score in ten bins; the area of a dot is the number of detections."""
    figure = Figure(figsize=(5.0, 4.3), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], ls="--", lw=1, color="#8b949e", zorder=1)
    for index, analysis in enumerate(analyses):
        found = analysis.calibration
        if found is None:
            continue
        filled = found.count > 0
        label = f"{_short(analysis.name, 28)}: off by {100 * found.error:.1f} points"
        color = line_color(index)
        axis.plot(found.score[filled], found.precision[filled], color=color, lw=1.6, label=label)
        area = 16 + 160 * found.count[filled] / max(found.count.max(), 1)
        axis.scatter(found.score[filled], found.precision[filled], area, color=color, alpha=0.75)
    _unit_axes(axis, "precision of detections by score", "score, mean of the bin")
    axis.set_ylabel("precision at IoU 0.5")
    figure.legend(loc="outside lower center", ncols=1)
    return figure


# ----------------------------------------------------------------------------------------- helpers


def _curve(axis, recall: np.ndarray, values: np.ndarray, index: int, label: str | None) -> None:
    # Where lines lie on one another, the dashes of the later one let the earlier one be seen.
    style = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)))[index % 4]
    reached = np.flatnonzero(values > 0)
    end = reached[-1] + 2 if len(reached) else 1  # down to 0, but not along it
    axis.plot(recall[:end], values[:end], color=line_color(index), lw=1.8, ls=style, label=label)


def _unit_axes(axis, title: str, xlabel: str) -> None:
    axis.set_title(title, loc="left")
    axis.set(xlabel=xlabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axis.grid()


def _legend_below(figure: Figure, count: int) -> None:
    figure.legend(loc="outside lower center", ncols=min(count, 4))


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
