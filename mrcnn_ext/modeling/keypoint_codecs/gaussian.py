# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Heatmaps that are spread around the point, and decoded to a fraction of a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import ConfigError
from .base import KeypointCodec, inside_and_labelled
from .coordinates import check_frame, image_to_map, map_to_image
from .peaks import peak_2d
from .scores import expected_oks_of_map, oks_falloff

__all__ = ["GaussianCodec", "gaussian_lines"]


class GaussianCodec(KeypointCodec):
    """A map's softmax is to be a Gaussian around the point; its peak is found between cells.

    The target q is a Gaussian of ``sigma`` cells at the point's exact position, scaled to sum 1 over
    the map, and the loss is the cross entropy -sum(q log softmax(z)). A map that fits has log
    probabilities that are a parabola, whose maximum one Newton step finds (Zhang et al.,
    "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR 2020; see
    :func:`peak_2d`). Nothing is rounded, so what was encoded is decoded to well below .05 pixels in a
    box of 200 x 400.

    Points outside the box do not count. Scores: "max", the softmax's highest cell over that of a map
    that fits, at most 1; "oks", see :func:`expected_oks_of_map`.
    """

    scores = ("max", "oks")

    def __init__(
        self,
        *,
        sigma: float = 2.0,
        frame: str = "half_pixel",
        score: str = "",
        oks_sigmas: Sequence[float] = (),
    ) -> None:
        """
        Args:
            sigma: standard deviation of the target, in cells.
            frame: how the box is laid over the map, see :mod:`coordinates`. "unit_length" is what
                ``MRCNN_EXT.KEYPOINT_HEAD.CODEC`` calls "udp".
            score, oks_sigmas: see KeypointCodec.

        Raises:
            ConfigError: a value is out of range.
        """
        super().__init__(score=score, oks_sigmas=oks_sigmas)
        if not sigma > 0:
            raise ConfigError(f"MRCNN_EXT.KEYPOINT_HEAD.SIGMA is {sigma}, expected more than 0.")
        self.sigma = sigma
        self.frame = check_frame(frame)

    def encode(self, boxes: Tensor, keypoints: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The target maps, and which of them count.

        Args:
            boxes: (R, 4).
            keypoints: (R, K, 3) x, y, visibility.
            size: side S of the map.

        Returns:
            (R, K, S, S) that sum to 1, 0 where they do not count; (R, K) bool.
        """
        x, y, valid = self._lines(boxes, keypoints, size)
        return (y[..., None] * x[..., None, :]) * valid[..., None, None], valid

    def loss(
        self,
        predictions: Tensor,
        boxes: Tensor,
        keypoints: Tensor,
        normalizer: float | None = None,
    ) -> Tensor:
        """Cross entropy with the target. ``predictions``: (R, K, S, S) logits."""
        logits = predictions.float()
        x, y, valid = self._lines(boxes, keypoints, logits.shape[3])
        # The target is a product of two lines; the map of it is never made.
        expected = ((logits @ x[..., None])[..., 0] * y).sum(dim=2)
        return self.reduce(logits.flatten(2).logsumexp(dim=2) - expected, valid, normalizer)

    @torch.no_grad()
    def decode(self, predictions: Tensor, boxes: Tensor) -> Tensor:
        """(R, K, 3) x, y, score. ``predictions``: (R, K, S, S) logits, S at least 5."""
        logits = predictions.float()
        regions, number, height, width = logits.shape
        peaks = peak_2d(logits.flatten(0, 1)).view(regions, number, 2)
        if self.frame == "unit_length":
            peaks = peaks.clamp(min=0, max=width - 1)
        else:
            peaks = peaks.clamp(min=-0.5, max=width - 0.5)
        boxes = boxes.to(logits.dtype)
        points = map_to_image(peaks, boxes, (width, height), self.frame)
        score = self._score(logits, points, boxes)
        return torch.cat([points, score[..., None]], dim=2)

    def _lines(self, boxes: Tensor, keypoints: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        positions = image_to_map(
            keypoints[..., :2].float(), boxes.float(), (size, size), self.frame
        )
        valid = inside_and_labelled(boxes, keypoints)
        # Points that do not count may be anywhere; the middle keeps all numbers finite.
        positions = torch.where(valid[..., None], positions, (size - 1) / 2)
        x = gaussian_lines(positions[..., 0], size, self.sigma)
        y = gaussian_lines(positions[..., 1], size, self.sigma)
        return x, y, valid

    def _score(self, logits: Tensor, points: Tensor, boxes: Tensor) -> Tensor:
        if self.score == "oks":
            falloff = oks_falloff(self, boxes, points[..., 0])
            return expected_oks_of_map(logits, points, boxes, falloff, self.frame)
        flat = logits.flatten(2)
        highest = torch.exp(flat.amax(dim=2) - flat.logsumexp(dim=2))
        return (highest * (2 * math.pi * self.sigma**2)).clamp(max=1)


def gaussian_lines(positions: Tensor, size: int, sigma: float) -> Tensor:
    """(..., S) Gaussians at positions (...), in cells, that sum to 1 over the cells 0 ... S - 1."""
    cells = torch.arange(size, device=positions.device, dtype=positions.dtype)
    exponent = -(cells - positions[..., None]).square() / (2 * sigma**2)
    return exponent.softmax(dim=-1)
