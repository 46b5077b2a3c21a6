# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Thresholds and confusion matrix on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..messages import shorten
from .confusion import frequent_confusions
from .tasks.operating_point import OperatingPoint, OperatingPoints

__all__ = ["print_thresholds"]

_MOST_CLASSES = 12  # of a matrix that fits into a terminal
_MOST_PAIRS = 20


def print_thresholds(points: OperatingPoints, names: Sequence[str]) -> None:
    """A row for each class that has a threshold, the confusion matrix, and what to beware of."""
    console = Console(highlight=False)
    what = "best F1" if points.precision is None else f"precision of at least {points.precision:g}"
    console.print(f"[bold]thresholds[/bold]: {what}, {points.task} at IoU 0.5")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class")
    for head in ("threshold", "precision", "recall", "F1", "objects", "detections"):
        table.add_column(head, justify="right")
    for name, point in zip(names, points.of_class):
        if point is not None:
            counts = str(point.objects), str(point.detections)
            table.add_row(name, f"{point.threshold:.3f}", *_percent(point), *counts)
    total = points.total
    table.add_row("all, at these", "", *_percent(total))
    if len(points.of_class) > 1:
        table.add_row("all, at one", f"{points.overall.threshold:.3f}", *_percent(points.overall))
    console.print(table)
    console.print()
    _print_confusion(console, points, names)
    for note in notes_on(points, names):
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def notes_on(points: OperatingPoints, names: Sequence[str]) -> list[str]:
    """What to beware of, in sentences."""
    notes = []
    missed = [names[k] for k in points.missed()]
    if missed:
        notes.append(
            f"no threshold reaches the precision of {points.precision:g} for {shorten(missed)}; that "
            "of the highest precision was taken."
        )
    none = [name for name, point in zip(names, points.of_class) if point is None]
    if none:
        notes.append(
            "no objects or no detections, so that the threshold is that of all classes: "
            f"{shorten(none)}."
        )
    if points.all_kept:
        kept = shorten([names[k] for k in points.all_kept])
        notes.append(
            f"all detections are kept of {kept}. If the file leaves out what scores less, a better "
            "threshold may be lower: predict with --score-threshold 0.05."
        )
    return notes


def _percent(point: OperatingPoint) -> list[str]:
    values = (point.precision, point.recall, point.f1)
    return ["\u2013" if value != value else f"{100 * value:.1f}" for value in values]


def _print_confusion(console: Console, points: OperatingPoints, names: Sequence[str]) -> None:
    if len(names) > _MOST_CLASSES:
        console.print("[bold]most frequent confusions")
        for number, row, column in frequent_confusions(points.confusion, names)[:_MOST_PAIRS]:
            console.print(f"  {number:5d}  {row} taken for {column}", markup=False)
        console.print()
        return
    console.print("[bold]confusion[/bold]: rows are objects, columns detections")
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in (*names, "missed"):
        table.add_column(name, justify="right", overflow="fold")
    for name, row in zip((*names, "nothing"), points.confusion.tolist()):
        table.add_row(name, *(str(value) if value else "\u00b7" for value in row))
    console.print(table)
    console.print()
