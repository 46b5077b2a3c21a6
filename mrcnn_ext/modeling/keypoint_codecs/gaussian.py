# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Gaussian heatmaps, decoded to a fraction of a cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .coordinates import map_to_image
from .heatmap import GaussianMapCodec, highest_share
from .peaks import peak_2d
from .registry import KEYPOINT_CODEC_REGISTRY

__all__ = ["GaussianCodec"]


@KEYPOINT_CODEC_REGISTRY.register()
class GaussianCodec(GaussianMapCodec):
    """Trains a map's softmax to be a Gaussian around the point, and finds its peak between cells.

    The target q is a Gaussian of ``sigma`` cells at the point's exact position, scaled to sum 1 over
    the map, and the loss is the cross entropy -sum(q log softmax(z)). A map that fits has log
    probabilities that are a parabola, whose maximum one Newton step finds (Zhang et al.,
    "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR 2020; see
    :func:`peak_2d`). Nothing is rounded: a round trip errs by far less than .05 pixels in a box of
    200 x 400.

    Points outside the box do not count. Scores: "max", the softmax's highest cell over that of a map
    that fits, at most 1; "oks", see :func:`expected_oks_of_map`.
    """

    name = "gaussian"

    def encode(
        self, boxes: Tensor, keypoints: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(R, K, H, W) target maps that sum to 1, 0 where they do not count; (R, K) bool."""
        positions, valid = self.positions(boxes, keypoints, size)
        x, y = self.lines(positions, size)
        return (y[..., None] * x[..., None, :]) * valid[..., None, None], valid

    def loss(
        self,
        predictions: Tensor,
        boxes: Tensor,
        keypoints: Tensor,
        normalizer: float | None = None,
    ) -> Tensor:
        """Cross entropy with the target. ``predictions``: (R, K, H, W) logits."""
        logits = predictions.float()
        size = (logits.shape[3], logits.shape[2])
        positions, valid = self.positions(boxes, keypoints, size)
        return self.reduce(self.cross_entropy(logits, positions), valid, normalizer)

    @torch.no_grad()
    def decode(self, predictions: Tensor, boxes: Tensor) -> Tensor:
        """(R, K, 3) x, y, score. ``predictions``: (R, K, H, W) logits of 5 x 5 cells or more."""
        logits = predictions.float()
        regions, number, height, width = logits.shape
        x, y = peak_2d(logits.flatten(0, 1)).view(regions, number, 2).unbind(dim=2)
        # The box ends at the centres of the outermost cells, or half a cell beyond them.
        margin = 0.0 if self.frame == "unit_length" else 0.5
        limits = (x.clamp(-margin, width - 1 + margin), y.clamp(-margin, height - 1 + margin))
        peaks = torch.stack(limits, dim=2)
        boxes = boxes.to(logits.dtype)
        points = map_to_image(peaks, boxes, (width, height), self.frame)
        if self.score == "oks":
            score = self.expected_oks(logits, points, boxes)
        else:
            score = (highest_share(logits) * (2 * math.pi * self.sigma**2)).clamp(max=1)
        return torch.cat([points, score[..., None]], dim=2)
