# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoint coordinates by regression, each with an uncertainty."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY
from torch import Tensor, nn

from ..keypoint_codecs import KeypointCodec, ResidualLikelihoodCodec
from .base import KeypointHeadBase

__all__ = ["MrcnnExtRegressionKeypointHead"]


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class MrcnnExtRegressionKeypointHead(KeypointHeadBase):
    """Mean and deviation of each coordinate (Li et al., residual log-likelihood estimation, ICCV 2021).

    The paper regresses from the mean of a deep network's last features. A trunk on RoI features sees
    little of the box from any one place, so here the features' means over ``grid`` x ``grid`` parts of
    the box go through a fully connected layer first; ``grid`` 1 is the paper's.
    """

    codec_kind = "distribution"
    default_codec = "residual_likelihood"

    @configurable
    def __init__(
        self, *, grid: int = 7, fc_dim: int = 1024, codec: KeypointCodec | None = None, **kwargs
    ) -> None:
        """
        Args:
            grid: parts of the box along each side whose features are kept apart.
            fc_dim: width of the fully connected layer; 0: none.
            codec: takes (R, K, 4); None: ResidualLikelihoodCodec.
            kwargs: see KeypointHeadBase.
        """
        super().__init__(codec=codec or ResidualLikelihoodCodec(), **kwargs)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        inputs = self.trunk_channels * grid * grid
        self.fc = nn.Sequential()
        if fc_dim:
            self.fc = nn.Sequential(nn.Linear(inputs, fc_dim), nn.ReLU())
            nn.init.kaiming_normal_(self.fc[0].weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(self.fc[0].bias)
        self.mean = nn.Linear(fc_dim or inputs, 2 * self.num_keypoints)
        self.deviation = nn.Linear(fc_dim or inputs, 2 * self.num_keypoints)
        for layer in (self.mean, self.deviation):
            # All keypoints start near the middle of the box, with a deviation of half of it.
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MRCNN_EXT.KEYPOINT_HEAD.RLE
        arguments = {"grid": node.GRID, "fc_dim": node.FC_DIM}
        return {**super().from_config(cfg, input_shape), **arguments}

    def predict(self, features: Tensor) -> Tensor:
        """(R, K, 4) mean x, y in sides of the box from its centre, logits of the deviations."""
        x = self.fc(self.pool(features).flatten(1))
        shape = (len(x), self.num_keypoints, 2)
        # Half precision would round positions to a 500th of the box.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.mean.weight.dtype)
            return torch.cat([self.mean(x).view(shape), self.deviation(x).view(shape)], dim=2)
