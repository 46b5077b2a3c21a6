# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Hooks and writers for Detectron2's trainers."""

from .best_checkpoint import BestCheckpointer
from .picture_hook import PictureHook, build_picture_hook, spread_records
from .validation_loss import ValidationLossHook, build_validation_loader, validation_losses

__all__ = [
    "BestCheckpointer",
    "PictureHook",
    "ValidationLossHook",
    "build_picture_hook",
    "build_validation_loader",
    "spread_records",
    "validation_losses",
]
