# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask heads and their base."""

from .base import MaskHeadBase, MaskHeadInputs, select_class
from .boundary_head import MrcnnExtBoundaryMaskHead
from .deep_head import MrcnnExtDeepMaskHead
from .dynamic_head import MrcnnExtDynamicMaskHead
from .fcn_head import MrcnnExtFCNMaskHead
from .losses import MASK_LOSSES, MaskLoss
from .point_rend_head import MrcnnExtPointRendMaskHead
from .refine_mask_head import MrcnnExtRefineMaskHead
from .scoring import MASK_SCORES
from .wrapped_head import MrcnnExtWrappedMaskHead

__all__ = [
    "MASK_LOSSES",
    "MASK_SCORES",
    "MaskHeadBase",
    "MaskHeadInputs",
    "MaskLoss",
    "MrcnnExtBoundaryMaskHead",
    "MrcnnExtDeepMaskHead",
    "MrcnnExtDynamicMaskHead",
    "MrcnnExtFCNMaskHead",
    "MrcnnExtPointRendMaskHead",
    "MrcnnExtRefineMaskHead",
    "MrcnnExtWrappedMaskHead",
    "select_class",
]
