# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Soft-argmax: the point is the expectation over its heatmap."""

from __future__ import annotations

import math

import torch
from detectron2.config import configurable
from torch import Tensor

from .coordinates import map_to_image
from .heatmap import GaussianMapCodec, highest_share
from .peaks import argmax_2d
from .registry import KEYPOINT_CODEC_REGISTRY

__all__ = ["IntegralCodec"]

# At the edge of the box, "half_pixel" puts points beyond the centres of all cells, where no mean of
# cells can be.
_FRAME = "unit_length"


@KEYPOINT_CODEC_REGISTRY.register()
class IntegralCodec(GaussianMapCodec):
    """Soft-argmax: the point is the mean of the cells under the map's softmax.

    After Sun et al., "Integral Human Pose Regression", ECCV 2018: the mean is differentiable
    (:meth:`expectation`), and the loss is the L1 distance of the expected from the true position, in
    halves of the map. An expectation leaves the map free to have any shape with the right mean; so,
    after Nibali et al. ("Numerical Coordinate Regression with Convolutional Neural Networks", 2018),
    the map is also held to a Gaussian around the point, by cross entropy with factor
    ``regularization``.

    Cells far away, however low, pull the mean of a whole map towards its middle (Gu et al., "Removing
    the Bias of Integral Pose Regression", ICCV 2021). Where the map is held to a Gaussian,
    :meth:`decode` therefore takes the mean of the cells around the highest, within 4 ``sigma``.

    Points outside the box do not count. Scores: "max", the softmax's highest cell; "oks", see
    :func:`expected_oks_of_map`.
    """

    name = "integral"

    @configurable
    def __init__(self, *, regularization: float = 1.0, **kwargs) -> None:
        """
        Args:
            regularization: factor of the cross entropy with a Gaussian of ``sigma``; 0: none.
            kwargs: see GaussianMapCodec, but for ``frame``.
        """
        super().__init__(frame=_FRAME, **kwargs)
        self.regularization = regularization

    @classmethod
    def from_config(cls, cfg) -> dict:
        weight = cfg.MRCNN_EXT.KEYPOINT_HEAD.INTEGRAL.REGULARIZATION
        return {**super().from_config(cfg), "regularization": weight}

    def encode(
        self, boxes: Tensor, keypoints: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(R, K, 2) true x, y in cells, 0 where they do not count; (R, K) bool."""
        return self.positions(boxes, keypoints, size)

    def expectation(self, predictions: Tensor) -> Tensor:
        """(R, K, 2) mean x, y in cells of (R, K, H, W) logits; differentiable."""
        height, width = predictions.shape[2:]
        probabilities = predictions.float().flatten(2).softmax(dim=2).unflatten(2, (height, width))
        cells = torch.arange(max(height, width), device=predictions.device, dtype=torch.float32)
        # Columns, not vectors: fvcore's FLOP counter ends with an error for those.
        x = probabilities.sum(dim=2) @ cells[:width, None]
        y = probabilities.sum(dim=3) @ cells[:height, None]
        return torch.cat([x, y], dim=2)

    def _decoded(self, logits: Tensor) -> Tensor:
        """(R, K, 2) x, y in cells of (R, K, H, W) logits."""
        if not self.regularization:  # the map may have any shape
            return self.expectation(logits)
        maps = logits.flatten(0, 1)
        height, width = maps.shape[1:]
        x, y = argmax_2d(maps)
        reach = math.ceil(4 * self.sigma)
        steps = torch.arange(-reach, reach + 1, device=maps.device)
        x, y = x[:, None] + steps, y[:, None] + steps
        outside = ((y < 0) | (y >= height))[:, :, None] | ((x < 0) | (x >= width))[:, None]
        cells = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None]
        window = maps.flatten(1).gather(1, cells.flatten(1)).view_as(cells)
        window = window.masked_fill(outside, -math.inf)
        share = window.flatten(1).softmax(dim=1).view_as(cells)
        mean = [(share.sum(dim=1) * x).sum(dim=1), (share.sum(dim=2) * y).sum(dim=1)]
        return torch.stack(mean, dim=1).view(*logits.shape[:2], 2)

    def loss(
        self,
        predictions: Tensor,
        boxes: Tensor,
        keypoints: Tensor,
        normalizer: float | None = None,
    ) -> Tensor:
        """L1 distance in halves of the map plus cross entropy; (R, K, H, W) logits."""
        logits = predictions.float()
        size = (logits.shape[3], logits.shape[2])
        positions, valid = self.encode(boxes, keypoints, size)
        # In halves of the map, the unit of both papers, whose factors hold for it
        halves = [max((side - 1) / 2, 0.5) for side in size]
        distance = (self.expectation(logits) - positions).abs()
        losses = distance[..., 0] / halves[0] + distance[..., 1] / halves[1]
        if self.regularization:
            losses = losses + self.regularization * self.cross_entropy(logits, positions)
        return self.reduce(losses, valid, normalizer)

    @torch.no_grad()
    def decode(self, predictions: Tensor, boxes: Tensor) -> Tensor:
        """(R, K, 3) x, y, score. ``predictions``: (R, K, H, W) logits."""
        logits, boxes = predictions.float(), boxes.float()
        size = (logits.shape[3], logits.shape[2])
        points = map_to_image(self._decoded(logits), boxes, size, self.frame)
        if self.score == "oks":
            score = self.expected_oks(logits, points, boxes)
        else:
            score = highest_share(logits)
        return torch.cat([points, score[..., None]], dim=2)
