# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Data sets: the built-in shapes, COCO jsons named in a config, their skeletons and their check."""

from .coco_datasets import register_coco, register_coco_pose
from .configured_datasets import register_datasets
from .shapes import register_builtin_shapes

__all__ = ["register_coco", "register_coco_pose", "register_datasets"]

register_builtin_shapes()
