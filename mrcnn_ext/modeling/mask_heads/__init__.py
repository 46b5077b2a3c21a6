# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from .base import MaskHeadBase, MaskHeadInputs, select_class
from .fcn_head import MrcnnExtFCNMaskHead
from .losses import MASK_LOSSES, MaskLoss
from .scoring import MASK_SCORES
from .wrapped_head import MrcnnExtWrappedMaskHead

__all__ = [
    "MASK_LOSSES",
    "MASK_SCORES",
    "MaskHeadBase",
    "MaskHeadInputs",
    "MaskLoss",
    "MrcnnExtFCNMaskHead",
    "MrcnnExtWrappedMaskHead",
    "select_class",
]
