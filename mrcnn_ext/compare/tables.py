# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tables of a comparison that all kinds of heads have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..coco.areas import AREA_NAMES
from ..page import Cell, Table
from .cells import NONE, ap_cell, cost_cell, head_cell, measure_cell, text_of
from .results import Comparison
from .statistics import mean

__all__ = ["Measure", "NamedTable", "ap_table", "cost_table", "main_table", "score_table"]
__all__ += ["SIZES", "size_table"]

SIZES = AREA_NAMES[1:]  # without "all"
_COSTS = ("M par.", "GFLOPs", "ms")
# Operators that fvcore does not count and that cost little: of each element, of indices
_TRIVIAL = set(
    """
    add sub mul div rsub neg sqrt log2 exp sigmoid clamp abs clamp_min floor floor_divide
    remainder ge gt le lt eq pow add_ mul_ sub_ div_ relu_ nonzero_numpy repeat_interleave
    index_put_ fill_ masked_fill where arange zeros_like ones_like full_like expand_as max min
    log log2_ round bitwise_and logical_and minimum maximum unbind
    """.split()
)


class NamedTable(NamedTuple):
    """A table with its title and how to read it."""

    title: str
    note: str
    table: Table


class Measure(NamedTuple):
    """A column of objects.json, and its title."""

    key: str
    title: str
    less_is_better: bool = False


def main_table(
    c: Comparison,
    title: str,
    aps: Sequence[tuple[str, str]],
    measures: Sequence[Measure],
    measured: str,
    costs: str,
) -> NamedTable:
    """What matters most of each head.

    Args:
        aps: metric and title of each.
        measured, costs: the parts of the note on measures and on costs.
    """
    columns = ["head", *(t for _, t in aps), *(m.title for m in measures), *_COSTS, "seeds"]
    rows = []
    for name in c.names:
        seeds = Cell(f"{len(c.runs[name])}/{c.seeds}", len(c.runs[name]))
        if not c.runs[name]:
            rows.append([head_cell(c, name), *[Cell(NONE)] * (len(columns) - 2), seeds])
            continue
        cells = [ap_cell(c, name, metric) for metric, _ in aps]
        cells += [measure_cell(c, name, m.key, less=m.less_is_better) for m in measures]
        rows.append([head_cell(c, name), *cells, *_cost_cells(c, name), seeds])
    note = (
        f"Mean ± standard deviation over seeds; under it the difference to {c.baseline}. AP: mean ± "
        f"standard deviation of the differences of each seed. {measured} Coloured: the interval is "
        f"without 0; for AP, all seeds agree. {costs}"
    )
    return NamedTable(title, note, Table(columns, rows))


def _cost_cells(c: Comparison, name: str) -> list[Cell]:
    return [
        cost_cell(c, name, "parameters", 2, 1e-6),
        cost_cell(c, name, "gflops", 2),
        cost_cell(c, name, "milliseconds", 1),
    ]


def ap_table(c: Comparison, metrics: Sequence[tuple[str, str]], note: str) -> NamedTable:
    """COCO's numbers: metric and title of each."""
    rows = [[head_cell(c, n), *(ap_cell(c, n, m) for m, _ in metrics)] for n in c.done]
    note += " The same box AP for all heads says that the same boxes were found."
    return NamedTable("Average precision", note, Table(["head", *(t for _, t in metrics)], rows))


def size_table(c: Comparison, measures: Sequence[Measure], area_of: str) -> NamedTable:
    """Measures at the true boxes by size; ``area_of``: what is small or large."""
    rows = [
        [
            head_cell(c, name),
            *(
                measure_cell(c, name, m.key, area, less=m.less_is_better)
                for m in measures
                for area in SIZES
            ),
        ]
        for name in c.done
    ]
    note = f"At the true boxes, by area of {area_of}: below 32², below 96² pixels, and above."
    if c.done:
        objects = next(iter(c.runs[c.done[0]].values())).objects
        numbers = ", ".join(f"{a} {int(c.chosen(objects, a).sum())}" for a in SIZES)
        note += f" Objects: {numbers}."
    groups = [("", 1, ""), *((m.title, len(SIZES), "") for m in measures)]
    return NamedTable("By size", note, Table(["head", *SIZES * len(measures)], rows, groups))


def cost_table(c: Comparison) -> NamedTable:
    """What heads cost, alone and in training."""
    rows = []
    for name in c.done:
        cost = c.costs.get(name, {})
        missing = cost.get("not counted") or {}
        names = (op.rpartition("::")[2] for op in missing)
        uncounted = ", ".join(sorted(name for name in names if name not in _TRIVIAL))
        if cost.get("flops failed"):
            uncounted = f"all: {cost['flops failed']}"
        seconds = [1000 * s for s in c.training(name, "seconds per iteration")]
        memory = [m / 2**20 for m in c.training(name, "peak memory")]
        rows.append(
            [
                head_cell(c, name),
                *_cost_cells(c, name),
                Cell(text_of(seconds, 0), mean(seconds)),
                Cell(text_of(memory, 0), mean(memory)),
                Cell(uncounted or NONE),
            ]
        )
    columns = ["head", *_COSTS, "training ms", "MiB", "not in GFLOPs"]
    note = (
        "Of the head for 100 RoIs, pooling included. GFLOPs count a multiply-add once; operators that "
        "fvcore cannot count are named if they do more than touch each element (costs.json has all). "
        "ms: median of 15 rounds, all heads in turn in one process"
    )
    known = next((c.costs[n] for n in c.done if n in c.costs), None)
    if known:
        note += f", {known['threads']} thread(s) on {known['device']}"
    of = {r.result["training"]["peak memory is of"] for n in c.done for r in c.runs[n].values()}
    threads = {r.result["training"]["threads"] for n in c.done for r in c.runs[n].values()}
    note += (
        f". Training ms: median of a step of the whole model, data loading left out, with "
        f"{'/'.join(map(str, sorted(threads)))} thread(s). MiB: peak of {' or '.join(sorted(of))} "
        "in training."
    )
    return NamedTable("Cost", note, Table(columns, rows))


def score_table(c: Comparison, kind: str, qualities: Sequence[str], truth: str) -> NamedTable:
    """How well scores tell the quality ``truth`` of what a kind of head predicts."""
    rows = []
    for name in c.done:
        for quality in qualities:
            errors = c.calibration(name, quality, "error")
            ranks = c.calibration(name, quality, "rank correlation")
            if not errors:
                continue
            numbers = c.calibration(name, quality, "number")
            rows.append(
                [
                    head_cell(c, name),
                    Cell(quality),
                    Cell(text_of(errors, 3), mean(errors)),
                    Cell(text_of(ranks, 3), mean(ranks)),
                    Cell(f"{mean(numbers):.0f}", mean(numbers)),
                ]
            )
    note = (
        f"What tells how good a {kind} is: mean |score - {truth}| (less is better) and Spearman's "
        f"rank correlation with the {truth} (more is better), over detections whose box matches an "
        "object of their class by an IoU of 0.5."
    )
    columns = ["head", "score", f"|score - {truth}|", "rank correlation", "detections"]
    return NamedTable(f"{kind.capitalize()} scores", note, Table(columns, rows))
