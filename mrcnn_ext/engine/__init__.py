# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Hooks for Detectron2's trainers."""

from .best_checkpoint import BestCheckpointer
from .validation_loss import ValidationLossHook, build_validation_loader, validation_losses

__all__ = ["BestCheckpointer", "ValidationLossHook", "build_validation_loader", "validation_losses"]
