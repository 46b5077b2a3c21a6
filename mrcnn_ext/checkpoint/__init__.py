# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Weights: load them safely, check that they fit the model, take timm's."""

from .check_weights import (
    CheckedWeights,
    check_complete,
    compare_weights,
    describe_loaded,
    describe_new,
)
from .first_convolution import FirstConvolution
from .last_checkpoint import (
    LastCheckpoint,
    checkpoint_problem,
    last_checkpoint,
    prune_checkpoints,
)
from .load_weights import load_weights
from .safe_checkpointer import SafeCheckpointer
from .shipped_weights import (
    SHIPPED,
    ShippedModel,
    register_shipped_weights_handler,
    shipped_model,
    write_shipped,
)
from .timm_weights import TimmWeightsHandler, register_timm_weights_handler

__all__ = [
    "SHIPPED",
    "CheckedWeights",
    "FirstConvolution",
    "LastCheckpoint",
    "SafeCheckpointer",
    "ShippedModel",
    "TimmWeightsHandler",
    "check_complete",
    "checkpoint_problem",
    "compare_weights",
    "describe_loaded",
    "describe_new",
    "last_checkpoint",
    "load_weights",
    "prune_checkpoints",
    "register_shipped_weights_handler",
    "register_timm_weights_handler",
    "shipped_model",
    "write_shipped",
]

register_timm_weights_handler()
register_shipped_weights_handler()
