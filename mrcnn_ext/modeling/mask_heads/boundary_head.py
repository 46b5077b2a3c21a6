# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Boundary-preserving Mask R-CNN: a mask and a boundary branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from ...config.aliases import first_set
from .base import MaskHeadBase, MaskHeadInputs, select_class
from .blocks import conv, conv_stack, mask_predictor, upsampling
from .losses import MASK_LOSSES, laplacian
from .regions import pooled_maps

__all__ = ["MrcnnExtBoundaryMaskHead", "boundary_targets"]

_KEY = "MRCNN_EXT.MASK_HEAD.BOUNDARY"


@ROI_MASK_HEAD_REGISTRY.register()
class MrcnnExtBoundaryMaskHead(MaskHeadBase):
    """A mask and a boundary branch that feed each other: BMask R-CNN (Cheng et al. 2020, sec. 3).

    The mask branch is Mask R-CNN's. The boundary branch sees the finest map at twice the resolution,
    takes in the mask's features, predicts the boundary, and its features go back into the mask branch
    before the upsampling. Masks are 2 P wide for RoI features of P, as in Mask R-CNN.
    """

    needs_maps = True

    @configurable
    def __init__(
        self,
        *,
        conv_dim: int = 256,
        num_conv: int = 4,
        conv_norm: str = "",
        boundary_pooler: nn.Module,
        boundary_features: Sequence[str],
        boundary_num_conv: int = 2,
        bce_weight: float = 1.0,
        dice_weight: float = 1.0,
        **kwargs,
    ) -> None:
        """
        Args:
            conv_dim: width of both branches.
            num_conv: 3 x 3 convolutions of the mask branch before the branches meet.
            conv_norm: normalisation of the convolutions, as for ``detectron2.layers.get_norm``.
            boundary_pooler: pools the maps ``boundary_features``, which are as wide as those of
                ``pooler``, at twice the resolution of ``pooler``.
            boundary_features: names of these maps, finest first.
            boundary_num_conv: 3 x 3 convolutions of the boundary branch.
            bce_weight, dice_weight: factors of the two losses of the boundary.
            kwargs: see MaskHeadBase; ``pooler`` is required.

        Raises:
            ConfigError: RoI features come in where feature maps are needed.
        """
        super().__init__(**kwargs)
        self.boundary_pooler = boundary_pooler
        self.boundary_features = list(boundary_features)
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight

        self.mask_convs = conv_stack(self.in_channels, conv_dim, num_conv, conv_norm)
        mask_dim = conv_dim if num_conv else self.in_channels
        self.boundary_reduction = conv(self.in_channels, conv_dim, stride=2, norm=conv_norm)
        self.mask_to_boundary = conv(mask_dim, conv_dim, 1, norm=conv_norm)
        self.boundary_convs = conv_stack(conv_dim, conv_dim, boundary_num_conv, conv_norm)
        self.boundary_to_mask = conv(conv_dim, mask_dim, 1, norm=conv_norm)
        self.fusion = conv(mask_dim, conv_dim, norm=conv_norm)
        self.mask_upsampling = upsampling(conv_dim, conv_dim)
        self.mask_predictor = mask_predictor(conv_dim, self.num_classes)
        self.boundary_upsampling = upsampling(conv_dim, conv_dim)
        self.boundary_predictor = mask_predictor(conv_dim, self.num_classes)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> dict:
        node, head = cfg.MRCNN_EXT.MASK_HEAD.BOUNDARY, cfg.MODEL.ROI_MASK_HEAD
        arguments = super().from_config(cfg, input_shape)
        assert not isinstance(input_shape, ShapeSpec)  # refused by the base
        key, names = first_set(cfg, f"{_KEY}.IN_FEATURES", f"{_KEY}.POOLER_LEVELS")
        names, pooler = pooled_maps(
            input_shape,
            names or arguments["in_features"][:1],
            2 * arguments["resolution"],
            key=key,
            beside=arguments["in_features"],
            sampling_ratio=head.POOLER_SAMPLING_RATIO,
        )
        return {
            **arguments,
            "conv_dim": head.CONV_DIM,
            "num_conv": head.NUM_CONV,
            "conv_norm": head.NORM,
            "boundary_pooler": pooler,
            "boundary_features": names,
            "boundary_num_conv": node.NUM_CONV,
            "bce_weight": node.BCE_WEIGHT,
            "dice_weight": node.DICE_WEIGHT,
        }

    def predict(self, inputs: MaskHeadInputs) -> list[Tensor]:
        """Boundary logits, then mask logits, each (R, K, 2 P, 2 P)."""
        maps = [inputs.maps[name] for name in self.boundary_features]
        boundary = self.boundary_reduction(self.boundary_pooler(maps, inputs.boxes))
        mask = self.mask_convs(inputs.pooled)
        boundary = self.boundary_convs(boundary + self.mask_to_boundary(mask))
        mask = self.fusion(mask + self.boundary_to_mask(boundary))
        return [
            self.boundary_predictor(self.boundary_upsampling(boundary).relu()),
            self.mask_predictor(self.mask_upsampling(mask).relu()),
        ]

    def losses(
        self, stages: list[Tensor], inputs: MaskHeadInputs, instances: list[Instances]
    ) -> dict[str, Tensor]:
        boundary, mask = (select_class(stage, inputs.classes) for stage in stages)
        targets = self.targets(inputs, instances, mask)
        truth = boundary_targets(targets).to(torch.float32)
        boundary = boundary.float()
        weights = self.object_weights(inputs)
        return {
            "loss_mask": self.mask_loss(mask, targets, weights),
            "loss_mask_boundary": self.bce_weight * MASK_LOSSES["bce"](boundary, truth, weights)
            + self.dice_weight * MASK_LOSSES["dice"](boundary, truth, weights),
        }


def boundary_targets(masks: Tensor) -> Tensor:
    """Pixels of a mask where its Laplacian is above .1 (Cheng et al. 2020, sec. 3.3).

    Outside of the region counts as background. So these are the mask's pixels with background beside
    them, and those at the border of the region, which for a tight box is where the object ends.

    Args:
        masks: (R, M, M) bool, or 0 and 1.

    Returns:
        (R, M, M) bool.
    """
    return laplacian(masks.to(torch.float32), "constant") > 0.1
