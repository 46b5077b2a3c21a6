# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Cells of a comparison's tables: a mean over seeds, and the difference to the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..page import Cell, line_color
from .results import Comparison
from .statistics import Interval, mean, spread

__all__ = ["NONE", "ap_cell", "cost_cell", "head_cell", "interval_text", "measure_cell"]
__all__ += ["reference_cell", "text_of"]

NONE = "\N{EN DASH}"


def text_of(values: Sequence[float], digits: int = 1) -> str:
    good = [v for v in values if v is not None and not math.isnan(v)]
    if not good:
        return NONE
    text = f"{mean(good):.{digits}f}"
    return f"{text} ± {spread(good):.{digits}f}" if len(good) > 1 else text


def _trend(value: float, sure: bool) -> str:
    if not sure or round(value, 1) == 0:
        return "same"
    return "better" if value > 0 else "worse"


def ap_cell(c: Comparison, name: str, metric: str, classes=None) -> Cell:
    own = c.ap(name, metric, classes)
    values = list(own.values())
    cell = Cell(text_of(values), mean(values) if values else None)
    if name != c.baseline and c.runs.get(c.baseline):
        pairs = [d for d in c.paired(own, c.ap(c.baseline, metric, classes)) if not math.isnan(d)]
        if pairs:
            cell.delta = f"{mean(pairs):+.1f}"
            cell.delta += f" ± {spread(pairs):.1f}" if len(pairs) > 1 else ""
            # Coloured if every seed says so: no test, only a hint
            cell.trend = _trend(mean(pairs), len({d > 0 for d in pairs}) == 1)
    return cell


def measure_cell(
    c: Comparison, name: str, measure: str, area: str = "all", classes=None, *, less: bool = False
) -> Cell:
    """Of a column of objects.json, with the difference's interval; ``less``: less is better."""
    values = list(c.at_true_boxes(name, measure, area, classes).values())
    cell = Cell(text_of(values), mean(values) if values else None)
    difference = c.difference(name, measure, area, classes)
    if difference is not None and not math.isnan(difference.value):
        cell.delta = interval_text(difference)
        value = -difference.value if less else difference.value
        cell.trend = _trend(value, difference.excludes_zero)
    return cell


def reference_cell(
    c: Comparison, reference: dict, measure: str, area: str = "all", classes=None
) -> Cell:
    """Of something that no head said, with the columns of objects.json."""
    value = 100 * mean(reference[measure][c.chosen(reference, area, classes)])
    return Cell(text_of([value]), value)


def interval_text(interval: Interval) -> str:
    return f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def head_cell(c: Comparison, name: str) -> Cell:
    return Cell(name, name, color=line_color(c.names.index(name)))


def cost_cell(c: Comparison, name: str, key: str, digits: int, scale: float = 1.0) -> Cell:
    value, base = (c.costs.get(n, {}).get(key) for n in (name, c.baseline))
    if value is None:
        return Cell(NONE)
    cell = Cell(f"{scale * value:.{digits}f}", scale * value)
    if name != c.baseline and base:
        cell.delta, cell.trend = f"\N{MULTIPLICATION SIGN} {value / base:.2f}", "same"
    return cell
