# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Operators, each with a compiled kernel and a fallback in PyTorch."""

from .heatmap_peaks import bicubic_peaks
from .kernels import KernelStatus, kernel_status
from .mask_paste import masks_to_rle, paste_masks
from .mask_targets import bitmask_targets, polygon_mask_targets
from .polygons import PackedPolygons
from .roi_align import roi_align_pyramid

__all__ = [
    "KernelStatus",
    "PackedPolygons",
    "bicubic_peaks",
    "bitmask_targets",
    "kernel_status",
    "masks_to_rle",
    "paste_masks",
    "polygon_mask_targets",
    "roi_align_pyramid",
]
