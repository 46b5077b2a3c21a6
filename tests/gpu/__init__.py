# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tests that need a CUDA GPU: ``pytest -m gpu``, or ``python tools/check_gpu.py`` for all there is."""

from __future__ import annotations

import pytest
import torch

from mrcnn_ext.layers import kernel_status

__all__ = ["DEVICE", "needs_gpu", "needs_kernels"]

DEVICE = "cuda"
_COMPILED = any(status.name == "_C_cuda" and status.loaded for status in kernel_status())

# For a module's pytestmark.
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
needs_kernels = [
    *needs_gpu,
    pytest.mark.skipif(not _COMPILED, reason="needs the compiled CUDA library"),
]
