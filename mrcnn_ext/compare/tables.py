# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tables of a comparison, and their forms: terminal, Markdown, json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..page import Cell, Table
from .cells import NONE, ap_cell, cost_cell, head_cell, measure_cell, text_of
from .keypoint.objects import KEYPOINT_QUALITIES
from .keypoint.tables import keypoint_ap, keypoint_main, keypoint_sizes
from .mask.objects import QUALITIES
from .results import AREAS, Comparison
from .statistics import mean

__all__ = ["BOX_ROW", "NamedTable", "as_json", "as_markdown", "as_rich", "make_tables"]

BOX_ROW = "(box as mask)"
# Operators that fvcore does not count and that cost little: of each element, of indices
_TRIVIAL = {
    *("add", "sub", "mul", "div", "rsub", "neg", "sqrt", "log2", "exp", "sigmoid", "clamp", "abs"),
    *(
        "clamp_min",
        "floor",
        "floor_divide",
        "remainder",
        "ge",
        "gt",
        "le",
        "lt",
        "eq",
        "pow",
        "add_",
    ),
    *("mul_", "sub_", "div_", "relu_", "nonzero_numpy", "repeat_interleave", "index_put_", "fill_"),
    *("masked_fill", "where", "arange", "zeros_like", "ones_like", "full_like", "expand_as", "max"),
    *("min", "log", "log2_", "round", "bitwise_and", "logical_and", "minimum", "maximum", "unbind"),
}
_COLORS = {"better": "green", "worse": "red", "same": "dim", "": "dim"}


@dataclass
class NamedTable:
    """A table with its title and how to read it."""

    title: str
    note: str
    table: Table


def make_tables(comparison: Comparison, box: dict | None = None) -> list[NamedTable]:
    """All tables, the main one first.

    Args:
        box: "iou" and "boundary_iou" of the filled true boxes, with the columns of objects.json.
    """
    if comparison.part == "keypoint":
        made = [part(comparison) for part in (keypoint_main, keypoint_ap, keypoint_sizes)]
        tables = [NamedTable(title, note, table) for title, note, table in made]
        return [*tables, _costs(comparison), _scores(comparison, KEYPOINT_QUALITIES, "OKS")]
    tables = [_main(comparison, box), _ap(comparison), _sizes(comparison, box)]
    if comparison.unseen:
        tables.insert(1, _seen_unseen(comparison, box, _IOUS, "at the true boxes"))
        tables.insert(2, _seen_unseen(comparison, box, _MAIN, "average precision"))
    return [*tables, _costs(comparison), _scores(comparison, QUALITIES, "IoU")]


# ------------------------------------------------------------------------------------------ tables


def _box_cell(c: Comparison, box: dict, measure: str, area: str = "all", classes=None) -> Cell:
    values = box[measure][c.chosen(box, area, classes)]
    return Cell(text_of([100 * mean(values)]), 100 * mean(values))


_MAIN = (("segm/AP", "mask AP"), ("boundary/AP", "boundary AP"))
_IOUS = (("iou", "IoU"), ("boundary_iou", "boundary IoU"))


def _main(c: Comparison, box: dict | None) -> NamedTable:
    columns = ["head", *(t for _, t in _MAIN), *(t for _, t in _IOUS)]
    columns += ["M par.", "GFLOPs", "ms", "seeds"]
    rows = []
    for name in c.names:
        seeds = Cell(f"{len(c.runs[name])}/{c.seeds}", len(c.runs[name]))
        if not c.runs[name]:
            rows.append([head_cell(c, name), *[Cell(NONE)] * 7, seeds])
            continue
        cells = [ap_cell(c, name, metric) for metric, _ in _MAIN]
        cells += [measure_cell(c, name, measure) for measure, _ in _IOUS]
        cells.append(cost_cell(c, name, "parameters", 2, 1e-6))
        cells.append(cost_cell(c, name, "gflops", 2))
        cells.append(cost_cell(c, name, "milliseconds", 1))
        rows.append([head_cell(c, name), *cells, seeds])
    if box is not None:
        cells = [_box_cell(c, box, measure) for measure, _ in _IOUS]
        rows.append([Cell(BOX_ROW), Cell(NONE), Cell(NONE), *cells, *[Cell(NONE)] * 4])
    note = (
        f"Mean ± standard deviation over seeds; under it the difference to {c.baseline}. AP: mean ± "
        "standard deviation of the differences of each seed. IoU, at the true boxes: with a 95 % "
        "bootstrap interval over images and seeds. Coloured: the interval is without 0; for AP, all "
        "seeds agree. GFLOPs and ms are of 100 RoIs."
    )
    return NamedTable("Mask heads", note, Table(columns, rows))


def _seen_unseen(c: Comparison, box: dict | None, metrics: Sequence, title: str) -> NamedTable:
    unseen = c.unseen
    seen = [k for k in range(len(c.class_names)) if k not in unseen]
    rows: list[list[Cell]] = [[head_cell(c, name)] for name in c.done]
    filled = [Cell(BOX_ROW)]
    for metric, _ in metrics:
        for classes in (seen, unseen):
            is_ap = "/" in metric
            for row, name in zip(rows, c.done):
                make = ap_cell if is_ap else measure_cell
                row.append(make(c, name, metric, classes=classes))
            if box is not None and not is_ap:
                filled.append(_box_cell(c, box, metric, classes=classes))
    if len(filled) > 1:
        rows.append(filled)
    names = ", ".join(c.class_names[k] for k in unseen)
    note = f"Unseen: {names}; masks of these classes trained no head."
    groups = [("", 1, ""), *((name, 2, "") for _, name in metrics)]
    table = Table(["head", *["seen", "unseen"] * len(metrics)], rows, groups)
    return NamedTable(f"Seen and unseen classes: {title}", note, table)


def _ap(c: Comparison) -> NamedTable:
    metrics = [
        *(("segm/AP", "mask AP"), ("segm/AP50", "AP50"), ("segm/AP75", "AP75")),
        *(("segm/APs", "small"), ("segm/APm", "medium"), ("segm/APl", "large")),
        *(("boundary/AP", "boundary AP"), ("bbox/AP", "box AP")),
    ]
    rows = [[head_cell(c, n), *(ap_cell(c, n, m) for m, _ in metrics)] for n in c.done]
    note = (
        "COCO's AP in percent. The same box AP for all heads says that the same boxes were found."
    )
    return NamedTable("Average precision", note, Table(["head", *(t for _, t in metrics)], rows))


def _sizes(c: Comparison, box: dict | None) -> NamedTable:
    sizes = [area for area in AREAS if area != "all"]
    columns = ["head", *(sizes * 2)]
    rows = []
    for name in c.done:
        cells = [measure_cell(c, name, m, area) for m, _ in _IOUS for area in sizes]
        rows.append([head_cell(c, name), *cells])
    note = "At the true boxes, by area of the true mask: below 32², below 96² pixels, and above."
    if c.done:
        objects = next(iter(c.runs[c.done[0]].values())).objects
        numbers = ", ".join(f"{a} {int(c.chosen(objects, a).sum())}" for a in sizes)
        note += f" Objects: {numbers}."
    if box is not None:
        rows.append(
            [Cell(BOX_ROW), *(_box_cell(c, box, m, area) for m, _ in _IOUS for area in sizes)]
        )
    groups = [("", 1, ""), *((title, len(sizes), "") for _, title in _IOUS)]
    return NamedTable("By size", note, Table(columns, rows, groups))


def _costs(c: Comparison) -> NamedTable:
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
                cost_cell(c, name, "parameters", 2, 1e-6),
                cost_cell(c, name, "gflops", 2),
                cost_cell(c, name, "milliseconds", 1),
                Cell(text_of(seconds, 0), mean(seconds)),
                Cell(text_of(memory, 0), mean(memory)),
                Cell(uncounted or NONE),
            ]
        )
    columns = ["head", "M par.", "GFLOPs", "ms", "training ms", "MiB", "not in GFLOPs"]
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


def _scores(c: Comparison, qualities: Sequence[str], truth: str) -> NamedTable:
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
        f"What tells how good a {c.part} is: mean |score - {truth}| (less is better) and Spearman's "
        f"rank correlation with the {truth} (more is better), over detections whose box matches an "
        "object of their class by an IoU of 0.5."
    )
    columns = ["head", "score", f"|score - {truth}|", "rank correlation", "detections"]
    return NamedTable(f"{c.part.capitalize()} scores", note, Table(columns, rows))


# ------------------------------------------------------------------------------------------- forms


def as_rich(named: NamedTable):
    """A table for the terminal; differences stand under the numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(
        title=named.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1)
    )
    for index, title in enumerate(_titles(named.table)):
        # Numbers stay whole; names give way
        is_number = all(
            row[index].value is not None or row[index].text == NONE for row in named.table.rows
        )
        whole = index > 0 and is_number
        table.add_column(
            title.replace(", ", "\n"),
            justify="right" if index else "left",
            no_wrap=whole,
            overflow="fold",
        )
    for row in named.table.rows:
        cells = []
        for cell in row:
            text = Text(cell.text)
            if cell.delta:
                delta = cell.delta.replace(" [", "\n[")
                text.append(f"\n{delta}", style=_COLORS[cell.trend])
            cells.append(text)
        table.add_row(*cells)
    return table


def as_markdown(named: NamedTable) -> str:
    """Differences stand in brackets after the numbers."""
    titles = _titles(named.table)
    lines = [f"## {named.title}", "", "| " + " | ".join(titles) + " |"]
    lines.append("|---|" + "---:|" * (len(titles) - 1))
    for row in named.table.rows:
        cells = [_escaped(c.text + (f" ({c.delta})" if c.delta else "")) for c in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", named.note, ""])


def as_json(named: NamedTable) -> dict:
    titles = _titles(named.table)
    rows = [
        {
            title: {
                "text": c.text,
                "value": None if c.value != c.value else c.value,
                "difference": c.delta or None,
            }
            for title, c in zip(titles, row)
        }
        for row in named.table.rows
    ]
    return {"title": named.title, "note": named.note, "rows": rows}


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _titles(table: Table) -> list[str]:
    """Columns with the name of their group."""
    groups = [name for name, width, _ in table.groups for _ in range(width)]
    if not groups:
        return table.columns
    return [f"{g}, {column}" if g else column for g, column in zip(groups, table.columns)]
