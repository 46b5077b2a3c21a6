# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Losses and scores over the iterations of a training."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..errors import DataError

__all__ = ["plot_training_curves"]


def plot_training_curves(
    metrics_json: str | os.PathLike, out_png: str | os.PathLike
) -> str | os.PathLike:
    """Plot losses and AP over the iterations from the ``metrics.json`` of a Detectron2 run.

    A line that a running training has only half written is left out; of an iteration that was run
    again after ``--resume`` the last values count.

    Returns:
        ``out_png``.

    Raises:
        DataError: the file is missing or has no losses.
    """
    out_file = Path(out_png)
    losses, scores = _read_metrics(Path(metrics_json))
    figure = Figure(figsize=(13, 4.2) if scores else (7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False, sharex=True)[0]
    for name, points in sorted(losses.items(), key=lambda item: item[0] != "total_loss"):
        wide = name == "total_loss"
        axes[0].plot(*_columns(points), label=name, lw=2 if wide else 1.2, zorder=3 if wide else 2)
    axes[0].set(
        title="training losses", xlabel="iteration", ylabel="loss (log scale)", yscale="log"
    )
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")  # 0.5, not 5 x 10^-1
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    if scores:
        for name, points in sorted(scores.items()):
            axes[1].plot(*_columns(points), marker="o", ms=4, label=_score_label(name))
        axes[1].set(title="evaluation", xlabel="iteration", ylabel="%", ylim=(0, None))
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))  # beside the curves
    out_file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(str(out_file), dpi=110)
    return out_png


def _score_label(name: str) -> str:
    """ "segm/AP" as "mask AP"; with several test sets, the set's name comes first."""
    *dataset, task, metric = name.split("/")
    task = {"bbox": "box", "segm": "mask"}.get(task, task)
    return " ".join([*dataset, task, metric])


def _read_metrics(file: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """Losses and APs, each as name -> {iteration: value}."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"no training curves: {file} cannot be read ({error.strerror}).") from error
    losses: dict[str, dict] = defaultdict(dict)
    scores: dict[str, dict] = defaultdict(dict)
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("iteration"), int):
            continue
        for key, value in entry.items():
            if not isinstance(value, (int, float)):
                continue
            if "loss" in key and "/" not in key:
                losses[key][entry["iteration"]] = value
            elif key.endswith(("/AP", "/AP50", "/AP75")) and math.isfinite(value):
                scores[key][entry["iteration"]] = value
    if not losses:
        raise DataError(f"no training curves: {file} holds no losses.")
    return losses, scores


def _columns(points: dict) -> tuple[list, list]:
    iterations = sorted(points)
    return iterations, [points[i] for i in iterations]
