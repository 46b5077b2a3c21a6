# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoint heads and their base."""

from .base import KeypointHeadBase
from .heatmap_head import HEATMAP_CODECS, MrcnnExtHeatmapKeypointHead
from .mask_guide import MaskGuide
from .regression_head import MrcnnExtRegressionKeypointHead
from .simcc_head import MrcnnExtSimCCKeypointHead

__all__ = [
    "HEATMAP_CODECS",
    "KeypointHeadBase",
    "MaskGuide",
    "MrcnnExtHeatmapKeypointHead",
    "MrcnnExtRegressionKeypointHead",
    "MrcnnExtSimCCKeypointHead",
]
