# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write docs/config.md from the commented defaults in the three files of defaults.

python -m mrcnn_ext.config.reference > docs/config.md
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["config_reference"]

_HEADER = """\
# Config keys

All keys that mrcnn_ext adds to a yaml config, below the node `MRCNN_EXT`. Detectron2's own keys keep
their meaning and are not repeated here. A config that was dumped with these keys loads only where the
plugin is (`DETECTRON2_ENV_MODULE=mrcnn_ext.d2_env`, or `add_mrcnn_ext_config(cfg)`).

This file is generated: `python -m mrcnn_ext.config.reference > docs/config.md`.
"""
_KEY = re.compile(r"_C\.([A-Z0-9_.]+) = (.+)")


def config_reference() -> str:
    """The text of docs/config.md."""
    lines: list[str] = []
    files = ("data_defaults.py", "    # ---"), ("training_defaults.py", "    # ---")
    for name, start in (("defaults.py", "def _defaults"), *files):
        source = Path(__file__).with_name(name).read_text(encoding="utf-8")
        lines += source[source.index(start) :].splitlines()
    out = [_HEADER]
    comment: list[str] = []
    is_title = False
    for line in (raw.strip() for raw in lines):
        if line.startswith("# ---"):
            is_title = not is_title
            if not is_title:
                out.append(f"## {comment[0]}\n")
                out += [" ".join(comment[1:]) + "\n"] if comment[1:] else []
                comment = []
        elif line.startswith("#"):
            comment.append(line.lstrip("# "))
        elif match := _KEY.fullmatch(line):
            if match[2] != "CN()":
                out.append(f"### `MRCNN_EXT.{match[1]}` = `{match[2]}`\n")
                out.append(" ".join(comment) + "\n")
            comment = []
        else:
            comment = []
    return "\n".join(out)


if __name__ == "__main__":
    print(config_reference(), end="")
