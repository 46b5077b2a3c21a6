# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Readers of annotation formats, a file each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..builder import Builder
from ..options import Options
from .cvat import read_cvat
from .label_studio import read_label_studio
from .labelme import read_labelme
from .masks import read_masks
from .via import read_via
from .voc import read_voc
from .yolo import read_yolo

__all__ = ["READERS"]

READERS: dict[str, Callable[[Path, Options], Builder]] = {
    "yolo": read_yolo,
    "labelme": read_labelme,
    "via": read_via,
    "voc": read_voc,
    "masks": read_masks,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
}
