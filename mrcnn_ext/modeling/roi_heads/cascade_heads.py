# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""CascadeROIHeads with the fused pooler."""

from __future__ import annotations

from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads

from .standard_heads import MrcnnExtStandardROIHeads

__all__ = ["MrcnnExtCascadeROIHeads"]


@ROI_HEADS_REGISTRY.register()
class MrcnnExtCascadeROIHeads(MrcnnExtStandardROIHeads, CascadeROIHeads):
    """Detectron2's CascadeROIHeads (same keys, state_dict and results) with fused RoIAlign.

    Its own methods are those of MrcnnExtStandardROIHeads, whose ``super()`` is CascadeROIHeads here.
    """
