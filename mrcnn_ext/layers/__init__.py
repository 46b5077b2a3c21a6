# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from .kernels import KernelStatus, kernel_status
from .roi_align import roi_align_pyramid

__all__ = ["KernelStatus", "kernel_status", "roi_align_pyramid"]
