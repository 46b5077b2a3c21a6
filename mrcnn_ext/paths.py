# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Folders this package uses."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_root"]


def cache_root() -> Path:
    """Folder for what is made once and kept: ``$MRCNN_EXT_CACHE``, or the user's cache folder."""
    explicit = os.environ.get("MRCNN_EXT_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mrcnn_ext"
