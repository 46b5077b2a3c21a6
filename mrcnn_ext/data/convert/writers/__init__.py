# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Writers of annotation formats, a file each."""

from __future__ import annotations

from collections.abc import Callable

from .dataset import Source, Target
from .labelme import write_labelme
from .masks import write_masks
from .voc import write_voc
from .yolo import write_yolo

__all__ = ["WRITERS", "Source", "Target"]

WRITERS: dict[str, Callable[[Source, Target], None]] = {
    "yolo": write_yolo,
    "labelme": write_labelme,
    "voc": write_voc,
    "masks": write_masks,
}
