# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write choices as a yaml config whose comments are their reasons."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

from .choices import Choice

__all__ = ["config_text"]

_WIDTH = 100


def config_text(base: str, choices: Sequence[Choice], head: Sequence[str]) -> str:
    """
    Args:
        base: for ``_BASE_``.
        choices: keys with dots; those of a section stand together, in the order of their first one.
        head: paragraphs for the beginning of the file.
    """
    tree: dict = {}
    for choice in choices:
        *sections, name = choice.key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = choice
    lines = [line for paragraph in head for line in _comment(paragraph, "")]
    lines.append(f"_BASE_: {json.dumps(base, ensure_ascii=False)}")
    _write(tree, 0, lines)
    return "\n".join([*lines, "VERSION: 2", ""])


def _write(tree: dict, depth: int, lines: list[str]) -> None:
    indent = "  " * depth
    # Values before sections: a reader finds them at the section's name.
    for name, entry in sorted(tree.items(), key=lambda item: isinstance(item[1], dict)):
        if isinstance(entry, dict):
            lines.append(f"{indent}{name}:")
            _write(entry, depth + 1, lines)
        else:
            lines += _comment(entry.why, indent) if entry.why else []
            lines.append(f"{indent}{name}: {json.dumps(entry.value, ensure_ascii=False)}")


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(
        text, _WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
