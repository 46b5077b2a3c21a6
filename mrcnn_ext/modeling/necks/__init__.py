# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Feature pyramids. Detectron2 knows only backbones: a neck registers a builder of the two."""

from .fpn import build_timm_fpn_backbone

__all__ = ["build_timm_fpn_backbone"]
