# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write json files with long lists, one entry after another: memory holds one entry at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping

from ..files import replaced_file

__all__ = ["write_json_list", "write_json_lists"]


def write_json_list(
    path: str | os.PathLike,
    entries: Iterable,
    start: str = "[",
    end: str = "]",
    *,
    indent: int | None = None,
) -> None:
    """Write one list.

    Args:
        entries: of the list, each on a line of its own.
        start, end: what stands around it, brackets included.
        indent: of each entry, as for ``json.dumps``.

    Raises:
        OSError: it cannot be written; what was there before is left.
    """
    texts = (json.dumps(entry, indent=indent) for entry in entries)
    _write(path, _list(texts, start, f"{end}\n"))


def write_json_lists(path: str | os.PathLike, lists: Mapping[str, Iterable]) -> None:
    """Write an object whose values are lists, in the order of ``lists``.

    Raises:
        OSError: it cannot be written; what was there before is left.
    """

    def parts() -> Iterator[str]:
        for index, (name, entries) in enumerate(lists.items()):
            start = f"{',' if index else '{'}\n{json.dumps(name)}: ["
            yield from _list(map(json.dumps, entries), start, "]")
        yield "}\n"

    _write(path, parts())


def _list(texts: Iterable[str], start: str, end: str) -> Iterator[str]:
    yield start
    for index, text in enumerate(texts):
        yield (",\n" if index else "\n") + text
    yield end


def _write(path: str | os.PathLike, parts: Iterable[str]) -> None:
    with replaced_file(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        file.writelines(parts)
