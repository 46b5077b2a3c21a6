# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Weights: load them safely, check that they fit the model, take timm's."""

from .check_weights import CheckedWeights, check_complete, compare_weights, describe_loaded
from .load_weights import load_weights
from .safe_checkpointer import SafeCheckpointer
from .timm_weights import TimmWeightsHandler, register_timm_weights_handler

__all__ = [
    "CheckedWeights",
    "SafeCheckpointer",
    "TimmWeightsHandler",
    "check_complete",
    "compare_weights",
    "describe_loaded",
    "load_weights",
    "register_timm_weights_handler",
]

register_timm_weights_handler()
