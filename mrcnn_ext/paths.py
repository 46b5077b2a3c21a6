# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Folders this package uses."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_root", "configs_folder", "shipped_weights_folder"]


def cache_root() -> Path:
    """Folder for what is made once and kept: ``$MRCNN_EXT_CACHE``, or the user's cache folder."""
    explicit = os.environ.get("MRCNN_EXT_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mrcnn_ext"


def configs_folder() -> Path:
    """Folder of this package's configs: in the package if it was installed from a wheel, else in
    the checkout."""
    package = Path(__file__).parent
    packaged = package / "model_zoo" / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def shipped_weights_folder() -> Path:
    """Folder of the trained weights that come with this package."""
    return Path(__file__).parent / "model_zoo" / "weights"
