# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training put together by config; its parts are hooks and functions for any Detectron2 trainer."""

from .accumulation import AccumulatingAMPTrainer, AccumulatingTrainer, accumulate
from .best_checkpoint import BestCheckpointer
from .early_stopping import EarlyStopping
from .ema import EMAHook, find_ema
from .evaluation_hooks import build_evaluation_hooks
from .optimizer import build_optimizer, create_optimizer, get_param_groups
from .picture_hook import PictureHook, build_picture_hook, spread_records
from .resume import ExactLoader, ExactResume, StopOnSignal
from .schedule import FlatCosineParamScheduler, build_lr_scheduler
from .trainer import Trainer, TrainerMixin
from .validation_loss import ValidationLossHook, build_validation_loader, validation_losses

__all__ = [
    "AccumulatingAMPTrainer",
    "AccumulatingTrainer",
    "BestCheckpointer",
    "EMAHook",
    "EarlyStopping",
    "ExactLoader",
    "ExactResume",
    "FlatCosineParamScheduler",
    "PictureHook",
    "StopOnSignal",
    "Trainer",
    "TrainerMixin",
    "ValidationLossHook",
    "accumulate",
    "build_evaluation_hooks",
    "build_lr_scheduler",
    "build_optimizer",
    "build_picture_hook",
    "build_validation_loader",
    "create_optimizer",
    "find_ema",
    "get_param_groups",
    "spread_records",
    "validation_losses",
]
