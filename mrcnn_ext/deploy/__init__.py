# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Faster inference of a trained model, and its export."""

from .mask_budget import takes_min_mask_score
from .optimize import can_optimize, optimize

__all__ = ["can_optimize", "optimize", "takes_min_mask_score"]
