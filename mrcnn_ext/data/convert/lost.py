# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What a conversion could not keep, counted by kind."""

from __future__ import annotations

from ...messages import shorten

__all__ = ["Lost"]

_EXAMPLES = 5  # of each kind


class Lost:
    """Counts of what was left out, with the first places of each kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, where: str, number: int = 1) -> None:
        """
        Args:
            kind: what it was, in the plural: "polylines".
            where: file and entry.
            number: how many.
        """
        self._counts[kind] = self._counts.get(kind, 0) + number
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES and where not in examples:
            examples.append(where)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def content(self) -> dict:
        """By kind its "count" and "examples", as json holds it."""
        return {
            kind: {"count": count, "examples": self._examples[kind]}
            for kind, count in sorted(self._counts.items())
        }

    def lines(self) -> list[str]:
        """A line for each kind."""
        return [
            f"{count} {kind}: {shorten(self._examples[kind], 3)}"
            for kind, count in sorted(self._counts.items())
        ]
