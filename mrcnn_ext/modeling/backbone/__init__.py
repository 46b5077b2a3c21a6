# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from .timm_backbone import TimmBackbone, build_timm_backbone, build_timm_fpn_backbone

__all__ = ["TimmBackbone", "build_timm_backbone", "build_timm_fpn_backbone"]
