# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Statistics of a data set as one picture."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...page import line_color
from .measure import Measured, resized

__all__ = ["statistics_figure"]

_MOST_CLASSES = 40  # bars


def statistics_figure(found: Measured, summary: dict) -> Figure:
    """Classes, sizes, aspect ratios, overlaps, objects an image and image sizes, in six plots."""
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    axes = figure.subplots(2, 3)
    scale = resized(found.image_sizes, *summary["training_size"])[found.image_of]
    sides = found.boxes[:, 2:] * scale[:, None]
    sides = sides[(sides > 0).all(axis=1)]
    _classes(axes[0, 0], summary["classes"])
    _sizes(axes[0, 1], sides, summary)
    _shapes(axes[0, 2], sides, summary)
    _histogram(axes[1, 0], found.per_image(), "objects in an image", "images")
    axes[1, 1].hist(found.overlap_same, bins=np.linspace(0, 1, 41).tolist(), color=line_color(0))
    axes[1, 1].axvline(0.5, color=line_color(1), linestyle="--", label="NMS threshold 0.5")
    axes[1, 1].set(
        yscale="symlog", xlabel="largest IoU with a box of the same class", ylabel="objects"
    )
    axes[1, 1].set_title("overlaps")
    axes[1, 1].legend()
    heights, widths = found.image_sizes.T
    axes[1, 2].scatter(widths, heights, s=12, alpha=0.4, color=line_color(0), linewidths=0)
    axes[1, 2].set(xlabel="width", ylabel="height", title="image sizes, pixels")
    axes[1, 2].set_xlim(left=0)
    axes[1, 2].set_ylim(bottom=0)
    return figure


def _classes(axes: Axes, classes: list[dict]) -> None:
    shown = sorted(classes, key=lambda c: -c["objects"])
    more = len(shown) - _MOST_CLASSES
    shown = shown[:_MOST_CLASSES]
    places = range(len(shown))
    axes.barh(places, [c["objects"] for c in shown], color=line_color(0), label="objects")
    axes.barh(
        places, [c["images"] for c in shown], color=line_color(1), height=0.35, label="images"
    )
    size = 9 if len(shown) <= 12 else 5
    axes.set_yticks(places, [c["name"][:24] for c in shown], fontsize=size)
    axes.invert_yaxis()
    if shown and shown[0]["objects"] > 20 * max(shown[-1]["objects"], 1):
        axes.set_xscale("symlog")
    axes.set_title("classes" + (f", {more} more not shown" if more > 0 else ""))
    axes.legend(framealpha=0.9, frameon=True)  # it may lie on bars


def _sizes(axes: Axes, sides: np.ndarray, summary: dict) -> None:
    short, long = summary["training_size"]
    axes.set_title(f"box sizes in training at {short} / {long}, and anchors")
    axes.set(xlabel="sqrt(width x height), pixels", ylabel="objects")
    if not len(sides):
        return
    sizes = np.sqrt(sides.prod(axis=1))
    low, high = max(sizes.min(), 1), max(sizes.max(), 2)
    axes.hist(sizes, bins=np.geomspace(low, high * 1.001, 41).tolist(), color=line_color(0))
    axes.set_xscale("log")
    for index, size in enumerate(summary["anchors"][0]["sizes"]):
        label = "suggested anchors" if index == 0 else None
        axes.axvline(size, color=line_color(1), linestyle="--", label=label)
    axes.legend(framealpha=0.9, frameon=True)


def _shapes(axes: Axes, sides: np.ndarray, summary: dict) -> None:
    axes.set(title="shapes of boxes", xlabel="height / width", ylabel="objects")
    if not len(sides):
        return
    ratios = (sides[:, 1] / sides[:, 0]).clip(0.05, 20)
    axes.hist(ratios, bins=np.geomspace(0.05, 20, 41).tolist(), color=line_color(0))
    axes.set_xscale("log")
    for ratio in summary["anchors"][0]["ratios"]:
        axes.axvline(ratio, color=line_color(1), linestyle="--")


def _histogram(axes: Axes, values: np.ndarray, xlabel: str, ylabel: str) -> None:
    most = int(values.max(initial=1))
    bins = (np.arange(most + 2) - 0.5).tolist() if most <= 60 else 40
    axes.hist(values, bins=bins, color=line_color(0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=xlabel)
