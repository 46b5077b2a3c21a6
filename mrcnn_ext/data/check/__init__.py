# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find what is wrong with a data set before training does: ``python -m mrcnn_ext.data.check``."""

from ..._moved import moved_names
from .dataset import check_coco, check_coco_json, count_coco
from .problem import Problem

__all__ = ["Problem", "check_coco", "check_coco_json", "count_coco"]

__getattr__ = moved_names(
    __name__,
    {"main": "mrcnn_ext.data.check.__main__", "load_coco": "mrcnn_ext.coco.read:read_coco"},
)
