# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""StandardROIHeads with the fused pooler."""

# No "from __future__ import annotations": TorchScript reads Final from the annotations themselves.
from typing import Any, Optional

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Instances
from torch import nn

from ...engine.running import check_followed
from ...structures import pack_gt_masks
from ..poolers import fuse_pooler
from .output_layers import set_classification_loss
from .self_pooling import self_pooling_arguments

__all__ = ["MrcnnExtStandardROIHeads"]


@ROI_HEADS_REGISTRY.register()
class MrcnnExtStandardROIHeads(StandardROIHeads):
    """Detectron2's StandardROIHeads (same keys, state_dict and results) with fused RoIAlign.

    Mask and keypoint heads that pool for themselves get the feature maps, whatever their POOLER_TYPE.
    ``MRCNN_EXT.BOX_HEAD`` may name another classification loss.
    """

    # Detectron2 marks these for TorchScript in its own class, and subclasses do not inherit that.
    mask_on: torch.jit.Final[bool]
    keypoint_on: torch.jit.Final[bool]

    @configurable
    def __init__(
        self,
        *,
        box_pooler: nn.Module,
        mask_pooler: Optional[nn.Module] = None,
        keypoint_pooler: Optional[nn.Module] = None,
        **kwargs,
    ) -> None:
        """
        Args:
            box_pooler, mask_pooler, keypoint_pooler: as for StandardROIHeads; a ROIPooler is
                replaced by a FusedROIPooler, other modules stay.
            kwargs: as for the parent.
        """
        super().__init__(
            box_pooler=fuse_pooler(box_pooler),
            mask_pooler=fuse_pooler(mask_pooler),
            keypoint_pooler=fuse_pooler(keypoint_pooler),
            **kwargs,
        )

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        check_followed(cfg)
        return super().from_config(cfg, input_shape)

    @classmethod
    def _init_box_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return set_classification_loss(super()._init_box_head(cfg, input_shape), cfg)

    @classmethod
    def _init_mask_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        own = self_pooling_arguments(cfg, "mask", input_shape)
        return super()._init_mask_head(cfg, input_shape) if own is None else own

    @classmethod
    def _init_keypoint_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        own = self_pooling_arguments(cfg, "keypoint", input_shape)
        return super()._init_keypoint_head(cfg, input_shape) if own is None else own

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """As the parent's; the mask head then finds ``gt_masks`` in this package's structures."""
        return super().label_and_sample_proposals(proposals, pack_gt_masks(targets))
