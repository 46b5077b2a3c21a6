# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's RoI heads with fused RoIAlign, and with classification losses for rare classes."""

from .cascade_heads import MrcnnExtCascadeROIHeads
from .classification_losses import ClassBalancedLoss, FocalLoss
from .output_layers import MrcnnExtOutputLayers
from .res5_heads import MrcnnExtRes5ROIHeads
from .self_pooling import pools_itself
from .standard_heads import MrcnnExtStandardROIHeads

__all__ = [
    "ClassBalancedLoss",
    "FocalLoss",
    "MrcnnExtCascadeROIHeads",
    "MrcnnExtOutputLayers",
    "MrcnnExtRes5ROIHeads",
    "MrcnnExtStandardROIHeads",
    "pools_itself",
]
