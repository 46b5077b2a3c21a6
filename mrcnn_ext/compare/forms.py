# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tables for the terminal, as Markdown, and as json."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from ..page import Table
from .cells import NONE
from .tables import NamedTable

__all__ = ["as_json", "as_markdown", "as_rich"]

_COLORS = {"better": "green", "worse": "red", "same": "dim", "": "dim"}


def as_rich(named: NamedTable) -> RichTable:
    """A table for the terminal; differences stand under the numbers."""
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
