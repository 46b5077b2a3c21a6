# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Feeds the instance mask to a keypoint head."""

from __future__ import annotations

import torch
from detectron2.layers import Conv2d
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ...structures import mask_targets

__all__ = ["MaskGuide"]

_KEY = "MRCNN_EXT.KEYPOINT_HEAD.MASK_GUIDED"


class MaskGuide(nn.Module):
    """Adds a 3 x 3 convolution of each region's mask to its features.

    In training this is the ground-truth mask in the proposal, at inference the prediction of the mask
    head, which RoI heads run first. The keypoint head never sees the errors of predicted masks in
    training. The convolution starts at 0, so a head with trained weights starts with the results that
    it had without masks.
    """

    def __init__(self, channels: int) -> None:
        """
        Args:
            channels: of the features.
        """
        super().__init__()
        self.conv = Conv2d(1, channels, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor, instances: list[Instances]) -> Tensor:
        """
        Args:
            features: (R, C, P, P).
            instances: with ``gt_masks`` and ``proposal_boxes`` in training, ``pred_masks``
                (n, 1, M, M) probabilities otherwise; R in all.

        Raises:
            ConfigError: there are no masks.
        """
        side = (features.shape[2], features.shape[3])
        masks = _ground_truth(instances, side) if self.training else _predicted(instances, side)
        # Between -1 and 1, so that "no object here" is a signal, too
        return features + self.conv(masks.to(features) * 2 - 1)


def _ground_truth(instances: list[Instances], side: tuple[int, int]) -> Tensor:
    if any(len(x) > 0 and not x.has("gt_masks") for x in instances):
        raise ConfigError(
            f"{_KEY} is True, but the ground truth has no masks: set MODEL.MASK_ON to True, for a "
            "data set that has masks."
        )
    masks = mask_targets(instances, side)[:, None]
    if not any(x.has("gt_has_mask") for x in instances):
        return masks
    # Neither object nor background, where nobody has drawn a mask
    known = torch.cat([x.gt_has_mask for x in instances if len(x)]).to(masks.device)
    return torch.where(known[:, None, None, None], masks.float(), 0.5)


def _predicted(instances: list[Instances], side: tuple[int, int]) -> Tensor:
    if any(not x.has("pred_masks") for x in instances):
        raise ConfigError(
            f"{_KEY} is True, but there are no predicted masks when the keypoint head runs: it needs "
            "a mask head (MODEL.MASK_ON True) in RoI heads that run it before the keypoint head, as "
            "Detectron2's and this package's do."
        )
    masks = torch.cat([getattr(x.pred_masks, "tensor", x.pred_masks) for x in instances])
    masks = masks.view(len(masks), 1, *masks.shape[-2:])
    if len(masks) == 0:
        return masks.new_zeros((0, 1, *side))
    return F.interpolate(masks.float(), side, mode="bilinear", antialias=True, align_corners=False)
