# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Look at the first annotations of a COCO json without reading all of it."""

from __future__ import annotations

import json
import mmap
import os
import re

__all__ = ["first_annotations"]

_BYTES = 2**20
_START = re.compile(rb'"annotations"\s*:\s*\[')


def first_annotations(path: str | os.PathLike, most: int = 100) -> list[dict]:
    """Up to ``most`` annotations, those of the first megabyte; [] where that cannot be told.

    Args:
        path: of a COCO json.
        most: as many at most.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = _START.search(data)
            text = (
                data[start.end() : start.end() + _BYTES].decode(errors="replace") if start else ""
            )
    except (OSError, ValueError):  # an empty file cannot be mapped
        return []
    found: list[dict] = []
    decoder = json.JSONDecoder()
    position = 0
    while len(found) < most:
        position += len(text[position:]) - len(text[position:].lstrip(", \t\r\n"))
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):  # "]", or the megabyte ends
            break
        if isinstance(value, dict):
            found.append(value)
    return found
