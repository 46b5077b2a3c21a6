# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Statistics of COCO data sets: sizes, classes, overlaps, anchors that fit, pixel values."""

from .anchors import DEFAULT_RATIOS, DEFAULT_SIZES, Anchors, anchor_fit, suggest_anchors
from .measure import Measured, measure, resized
from .pixels import config_lines, pixel_statistics
from .summary import summarize

__all__ = [
    "DEFAULT_RATIOS",
    "DEFAULT_SIZES",
    "Anchors",
    "Measured",
    "anchor_fit",
    "config_lines",
    "measure",
    "pixel_statistics",
    "resized",
    "suggest_anchors",
    "summarize",
]
