# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Faster inference of a trained model, and its export."""

from .optimize import can_optimize, optimize

__all__ = ["can_optimize", "optimize"]
