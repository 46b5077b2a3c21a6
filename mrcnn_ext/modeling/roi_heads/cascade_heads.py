# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""CascadeROIHeads with the fused pooler."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Instances
from torch import nn

from ...structures import pack_gt_masks
from ..poolers import fuse_pooler

__all__ = ["MrcnnExtCascadeROIHeads"]


@ROI_HEADS_REGISTRY.register()
class MrcnnExtCascadeROIHeads(CascadeROIHeads):
    """Detectron2's CascadeROIHeads (same keys, state_dict and results) with fused RoIAlign."""

    @configurable
    def __init__(
        self,
        *,
        box_pooler: nn.Module,
        mask_pooler: nn.Module | None = None,
        keypoint_pooler: nn.Module | None = None,
        **kwargs,
    ) -> None:
        """
        Args:
            box_pooler, mask_pooler, keypoint_pooler: as for CascadeROIHeads; a ROIPooler is
                replaced by a FusedROIPooler, other modules stay.
            kwargs: as for CascadeROIHeads.
        """
        super().__init__(
            box_pooler=fuse_pooler(box_pooler),
            mask_pooler=fuse_pooler(mask_pooler),
            keypoint_pooler=fuse_pooler(keypoint_pooler),
            **kwargs,
        )

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """As the parent's; the mask head then finds ``gt_masks`` in this package's structures."""
        return super().label_and_sample_proposals(proposals, pack_gt_masks(targets))
