# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find what is wrong with a data set before training does: ``python -m mrcnn_ext.data.check``."""

from ..._moved import moved_names
from .dataset import Problem, check_coco, check_coco_json, count_coco, load_coco

__all__ = ["Problem", "check_coco", "check_coco_json", "count_coco", "load_coco"]

__getattr__ = moved_names(__name__, {"main": "mrcnn_ext.data.check.__main__"})
