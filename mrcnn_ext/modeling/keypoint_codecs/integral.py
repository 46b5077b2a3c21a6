# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The point is the expectation of its heatmap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import ConfigError
from .base import KeypointCodec, inside_and_labelled
from .coordinates import image_to_map, map_to_image
from .gaussian import gaussian_lines
from .peaks import argmax_2d
from .scores import expected_oks_of_map, oks_falloff

__all__ = ["IntegralCodec"]

# In cells: at the edge of the box, "half_pixel" would ask for points beyond all cells, where no
# expectation can be.
_FRAME = "unit_length"


class IntegralCodec(KeypointCodec):
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

    scores = ("max", "oks")

    def __init__(
        self,
        *,
        sigma: float = 2.0,
        regularization: float = 1.0,
        score: str = "",
        oks_sigmas: Sequence[float] = (),
    ) -> None:
        """
        Args:
            sigma: of the Gaussian that the map is held to, in cells.
            regularization: factor of that; 0: not at all.
            score, oks_sigmas: see KeypointCodec.

        Raises:
            ConfigError: a value is out of range.
        """
        super().__init__(score=score, oks_sigmas=oks_sigmas)
        if not sigma > 0:
            raise ConfigError(f"MRCNN_EXT.KEYPOINT_HEAD.SIGMA is {sigma}, expected more than 0.")
        self.sigma = sigma
        self.regularization = regularization

    def encode(self, boxes: Tensor, keypoints: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """True positions on the map, and which count.

        Args:
            boxes: (R, 4).
            keypoints: (R, K, 3) x, y, visibility.
            size: side S of the map.

        Returns:
            (R, K, 2) x, y in cells, 0 to S - 1; where they do not count, the middle. (R, K) bool.
        """
        points = keypoints[..., :2].float()
        positions = image_to_map(points, boxes.float(), (size, size), _FRAME)
        valid = inside_and_labelled(boxes, keypoints)
        return torch.where(valid[..., None], positions, (size - 1) / 2), valid

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
        """L1 distance in halves of the map plus cross entropy; (R, K, S, S) logits."""
        logits = predictions.float()
        size = logits.shape[3]
        positions, valid = self.encode(boxes, keypoints, size)
        # In halves of the map, the unit of both papers, whose factors hold for it
        half = max((size - 1) / 2, 0.5)
        losses = (self.expectation(logits) - positions).abs().sum(dim=2) / half
        if self.regularization:
            x = gaussian_lines(positions[..., 0], size, self.sigma)
            y = gaussian_lines(positions[..., 1], size, self.sigma)
            expected = ((logits @ x[..., None])[..., 0] * y).sum(dim=2)
            entropy = logits.flatten(2).logsumexp(dim=2) - expected
            losses = losses + self.regularization * entropy
        return self.reduce(losses, valid, normalizer)

    @torch.no_grad()
    def decode(self, predictions: Tensor, boxes: Tensor) -> Tensor:
        """(R, K, 3) x, y, score. ``predictions``: (R, K, S, S) logits."""
        logits, boxes = predictions.float(), boxes.float()
        size = (logits.shape[3], logits.shape[2])
        points = map_to_image(self._decoded(logits), boxes, size, _FRAME)
        if self.score == "oks":
            falloff = oks_falloff(self, boxes, points[..., 0])
            score = expected_oks_of_map(logits, points, boxes, falloff, _FRAME)
        else:
            flat = logits.flatten(2)
            score = torch.exp(flat.amax(dim=2) - flat.logsumexp(dim=2))
        return torch.cat([points, score[..., None]], dim=2)
