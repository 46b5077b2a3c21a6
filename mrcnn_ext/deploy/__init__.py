# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Trained models where they are used: exported to ONNX, and run from there."""

from .export import export_onnx
from .metadata import ModelInput
from .onnx_runner import Detections, OnnxModel, RunnerError

__all__ = ["Detections", "ModelInput", "OnnxModel", "RunnerError", "export_onnx"]
