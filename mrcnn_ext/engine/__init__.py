# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training put together by config; its parts are hooks and functions for any Detectron2 trainer."""

from .best_checkpoint import BestCheckpointer
from .evaluation_hooks import build_evaluation_hooks
from .picture_hook import PictureHook, build_picture_hooks, spread_records
from .resume import ExactLoader, ExactResume, StopOnSignal
from .trainer import Trainer, TrainerMixin
from .validation_loss import ValidationLossHook, build_validation_loader, validation_losses

__all__ = [
    "BestCheckpointer",
    "ExactLoader",
    "ExactResume",
    "PictureHook",
    "StopOnSignal",
    "Trainer",
    "TrainerMixin",
    "ValidationLossHook",
    "build_evaluation_hooks",
    "build_picture_hooks",
    "build_validation_loader",
    "spread_records",
    "validation_losses",
]
