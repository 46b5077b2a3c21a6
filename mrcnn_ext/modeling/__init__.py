# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Components that are registered in Detectron2."""

from . import backbone, keypoint_heads, mask_heads, meta_arch, necks, roi_heads  # noqa: F401
from .poolers import FusedROIPooler, swap_poolers
from .tta import KeypointRCNNWithTTA

__all__ = ["FusedROIPooler", "KeypointRCNNWithTTA", "swap_poolers"]
