# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Data sets: the built-in shapes, COCO jsons named in a config, their skeletons and their check."""

from .coco_datasets import register_coco, register_coco_pose
from .configured_datasets import register_datasets
from .mapper import TrainingMapper
from .shapes import register_builtin_shapes
from .train_loader import build_train_loader

__all__ = [
    "TrainingMapper",
    "build_train_loader",
    "register_coco",
    "register_coco_pose",
    "register_datasets",
]

register_builtin_shapes()
