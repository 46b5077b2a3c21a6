# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tables of a comparison of mask heads."""

from __future__ import annotations

from collections.abc import Sequence

from ...page import Cell, Table
from ..cells import NONE, ap_cell, head_cell, measure_cell, reference_cell
from ..results import Comparison
from ..tables import (
    SIZES,
    Measure,
    NamedTable,
    ap_table,
    cost_table,
    main_table,
    score_table,
    size_table,
)
from .objects import QUALITIES

__all__ = ["BOX_ROW", "mask_tables"]

BOX_ROW = "(box as mask)"
_APS = (("segm/AP", "mask AP"), ("boundary/AP", "boundary AP"))
_IOUS = (Measure("iou", "IoU"), Measure("boundary_iou", "boundary IoU"))


def mask_tables(c: Comparison, box: dict | None = None) -> list[NamedTable]:
    """All tables, the main one first.

    Args:
        box: "iou" and "boundary_iou" of the filled true boxes, with the columns of objects.json.
    """
    tables = [_main(c, box)]
    if c.unseen:
        tables.append(_seen_unseen(c, box, [(m.key, m.title) for m in _IOUS], "at the true boxes"))
        tables.append(_seen_unseen(c, box, _APS, "average precision"))
    return [
        *tables,
        _ap(c),
        _sizes(c, box),
        cost_table(c),
        score_table(c, "mask", QUALITIES, "IoU"),
    ]


def _main(c: Comparison, box: dict | None) -> NamedTable:
    made = main_table(c, "Mask heads", _APS, _IOUS, "IoU, at the true boxes: with a 95 % bootstrap "
                      "interval over images and seeds.", "GFLOPs and ms are of 100 RoIs.")  # fmt: skip
    if box is not None:
        cells = [reference_cell(c, box, m.key) for m in _IOUS]
        nothing = Cell(NONE)
        made.table.rows.append([Cell(BOX_ROW), nothing, nothing, *cells, *[nothing] * 4])
    return made


def _ap(c: Comparison) -> NamedTable:
    metrics = [
        *(("segm/AP", "mask AP"), ("segm/AP50", "AP50"), ("segm/AP75", "AP75")),
        *(("segm/APs", "small"), ("segm/APm", "medium"), ("segm/APl", "large")),
        *(("boundary/AP", "boundary AP"), ("bbox/AP", "box AP")),
    ]
    return ap_table(c, metrics, "COCO's AP in percent.")


def _sizes(c: Comparison, box: dict | None) -> NamedTable:
    made = size_table(c, _IOUS, "the true mask")
    if box is not None:
        cells = [reference_cell(c, box, m.key, area) for m in _IOUS for area in SIZES]
        made.table.rows.append([Cell(BOX_ROW), *cells])
    return made


def _seen_unseen(
    c: Comparison, box: dict | None, metrics: Sequence[tuple[str, str]], title: str
) -> NamedTable:
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
                filled.append(reference_cell(c, box, metric, classes=classes))
    if len(filled) > 1:
        rows.append(filled)
    names = ", ".join(c.class_names[k] for k in unseen)
    note = f"Unseen: {names}; masks of these classes trained no head."
    groups = [("", 1, ""), *((name, 2, "") for _, name in metrics)]
    table = Table(["head", *["seen", "unseen"] * len(metrics)], rows, groups)
    return NamedTable(f"Seen and unseen classes: {title}", note, table)
