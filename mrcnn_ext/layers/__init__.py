# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from .kernels import KernelStatus, kernel_status

__all__ = ["KernelStatus", "kernel_status"]
