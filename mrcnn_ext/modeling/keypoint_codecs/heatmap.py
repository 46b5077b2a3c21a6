# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The parts that codecs of heatmaps share."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from torch import Tensor

from ...errors import ConfigError
from .base import KeypointCodec, inside_and_labelled
from .coordinates import check_frame, image_to_map
from .scores import expected_oks_of_map, oks_falloff

__all__ = ["GaussianMapCodec", "HeatmapCodec", "gaussian_lines", "highest_share"]


class HeatmapCodec(KeypointCodec):
    """A codec of (R, K, H, W) maps. Points outside the box do not count."""

    kind = "heatmap"
    scores = ("max", "oks")
    frame = "half_pixel"  # how the box is laid over the map, see coordinates.py

    def expected_oks(self, logits: Tensor, points: Tensor, boxes: Tensor) -> Tensor:
        """(R, K) score "oks" of points (R, K, 2) in pixels; see :func:`expected_oks_of_map`."""
        falloff = oks_falloff(self, boxes, points[..., 0])
        return expected_oks_of_map(logits, points, boxes, falloff, self.frame)


class GaussianMapCodec(HeatmapCodec):
    """A codec whose training compares a map's softmax with a Gaussian around the point."""

    @configurable
    def __init__(self, *, sigma: float = 2.0, frame: str = "half_pixel", **kwargs) -> None:
        """
        Args:
            sigma: standard deviation of the Gaussian, in cells.
            frame: how the box is laid over the map, see :mod:`coordinates`.
            kwargs: see KeypointCodec.

        Raises:
            ConfigError: a value is out of range.
        """
        super().__init__(**kwargs)
        if not sigma > 0:
            raise ConfigError(f"MRCNN_EXT.KEYPOINT_HEAD.SIGMA is {sigma}, expected more than 0.")
        self.sigma = sigma
        self.frame = check_frame(frame)

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {**super().from_config(cfg), "sigma": cfg.MRCNN_EXT.KEYPOINT_HEAD.SIGMA}

    def positions(
        self, boxes: Tensor, keypoints: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(R, K, 2) x, y in cells, 0 where they do not count; (R, K) bool."""
        positions = image_to_map(keypoints[..., :2].float(), boxes.float(), size, self.frame)
        valid = inside_and_labelled(boxes, keypoints)
        # Points that do not count may be anywhere; 0 keeps all numbers finite.
        return torch.where(valid[..., None], positions, 0.0), valid

    def lines(self, positions: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(R, K, W) and (R, K, H), whose product is the Gaussian; each sums to 1."""
        x = gaussian_lines(positions[..., 0], size[0], self.sigma)
        return x, gaussian_lines(positions[..., 1], size[1], self.sigma)

    def cross_entropy(self, logits: Tensor, positions: Tensor) -> Tensor:
        """(R, K) cross entropy -sum(q log softmax(z)) with the Gaussians q at (R, K, 2) positions."""
        x, y = self.lines(positions, (logits.shape[3], logits.shape[2]))
        # The Gaussian is a product of two lines; the map of it is never made.
        expected = ((logits @ x[..., None])[..., 0] * y).sum(dim=2)
        return logits.flatten(2).logsumexp(dim=2) - expected


def highest_share(logits: Tensor) -> Tensor:
    """(R, K) highest value of the softmax of (R, K, H, W) logits."""
    flat = logits.flatten(2)
    return torch.exp(flat.amax(dim=2) - flat.logsumexp(dim=2))


def gaussian_lines(positions: Tensor, size: int, sigma: float) -> Tensor:
    """(..., S) Gaussians at positions (...), in cells, that sum to 1 over the cells 0 ... S - 1."""
    cells = torch.arange(size, device=positions.device, dtype=positions.dtype)
    exponent = -(cells - positions[..., None]).square() / (2 * sigma**2)
    return exponent.softmax(dim=-1)
