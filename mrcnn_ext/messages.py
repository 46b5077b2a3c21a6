# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Parts of error messages: shortened lists and values, names that are close to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["describe", "same_but_for_case", "shorten", "similar"]


def shorten(items: Iterable, most: int = 6) -> str:
    """The first ``most`` items, separated by commas, and "…" if there are more."""
    items = list(items)
    return ", ".join(map(str, items[:most])) + (", …" if len(items) > most else "")


def similar(name: str, names: Iterable[str], *, most: int = 4, likeness: float = 0.6) -> list[str]:
    """Up to ``most`` of ``names`` that are spelled much like ``name``, the closest first.

    Args:
        likeness: the least, in 0 … 1, as ``difflib`` measures it.
    """
    return difflib.get_close_matches(name, list(names), n=most, cutoff=likeness)


def same_but_for_case(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names that are alike but for capitals and blanks."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    return [group for group in alike.values() if len(group) > 1]


def describe(value, length: int = 60) -> str:
    """``repr(value)``, cut to ``length`` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
