# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Trained models where they are used: made faster, exported to ONNX, and run from there."""

from .export import export_onnx
from .mask_budget import takes_min_mask_score
from .metadata import ModelInput
from .onnx_runner import Detections, OnnxModel, RunnerError
from .optimize import can_optimize, optimize

__all__ = [
    "Detections",
    "ModelInput",
    "OnnxModel",
    "RunnerError",
    "can_optimize",
    "export_onnx",
    "optimize",
    "takes_min_mask_score",
]
