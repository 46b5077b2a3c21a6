# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Backbones."""

from ..._moved import moved_names
from .timm_backbone import TimmBackbone, build_timm_backbone

__all__ = ["TimmBackbone", "build_timm_backbone"]

__getattr__ = moved_names(__name__, {"build_timm_fpn_backbone": "mrcnn_ext.modeling.necks"})
