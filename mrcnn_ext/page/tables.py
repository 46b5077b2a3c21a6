# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tables of a page: numbers as text, with differences and what is better."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Cell", "Table", "count", "number"]


@dataclass
class Cell:
    """One number or word.

    Attributes:
        text: what is shown.
        value: what is sorted by; None sorts last.
        delta: difference to what is compared with, as text; empty for none.
        trend: "better", "worse" or "same".
        bar: length of the bar behind it, in 0 … 1; None for no bar.
        color: of a swatch before it.
    """

    text: str
    value: float | str | None = None
    delta: str = ""
    trend: str = ""
    bar: float | None = None
    color: str = ""


@dataclass
class Table:
    """Rows of cells under column titles.

    Attributes:
        groups: titles over the columns: (name, number of columns, colour) each.
        sortable: by a click on a column's title.
        stacked: differences stand below the numbers, which takes less width.
    """

    columns: list[str]
    rows: list[list[Cell]]
    groups: list[tuple[str, int, str]] = field(default_factory=list)
    sortable: bool = False
    stacked: bool = True

    @property
    def starts(self) -> set[int]:
        """Indices of the columns that a group begins with, but for the first group."""
        ends = np.cumsum([width for _, width, _ in self.groups])
        return set(ends[:-1].tolist())


def number(
    value: float, first: float | None = None, *, scale: float = 100, lower_is_better: bool = False
) -> Cell:
    """A score as points with one decimal and its difference to ``first``; NaN is a dash."""
    if value != value:
        return Cell("\u2013")
    text = f"{scale * value:.1f}"
    cell = Cell(text if text != "-0.0" else "0.0", value)
    if first is not None and first == first:
        # Of the numbers shown, so that the columns add up.
        difference = round(scale * value, 1) - round(scale * first, 1)
        _set_delta(cell, difference, f"{abs(difference):.1f}", lower_is_better)
    return cell


def count(value: int, first: int | None = None, *, lower_is_better: bool = False) -> Cell:
    """A whole number in groups of three digits and its difference to ``first``."""
    cell = Cell(f"{value:,}".replace(",", "\u202f"), value)
    if first is not None:
        difference = value - first
        text = f"{abs(difference):,}".replace(",", "\u202f")
        _set_delta(cell, difference, text, lower_is_better)
    return cell


def _set_delta(cell: Cell, difference: float, text: str, lower_is_better: bool) -> None:
    if abs(difference) < 1e-9 or float(text.replace("\u202f", "")) == 0:
        cell.delta, cell.trend = "±0", "same"
        return
    cell.delta = ("+" if difference > 0 else "\u2212") + text
    cell.trend = "better" if (difference > 0) != lower_is_better else "worse"
