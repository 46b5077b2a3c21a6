# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""SimCC: a keypoint as two classifications, of its column and of its row."""

from __future__ import annotations

import math

import torch
from detectron2.config import configurable
from torch import Tensor

from ...errors import ConfigError
from .base import KeypointCodec, inside_and_labelled
from .coordinates import cell_sides, image_to_map, map_to_image
from .heatmap import gaussian_lines
from .peaks import peak_1d
from .registry import KEYPOINT_CODEC_REGISTRY
from .scores import expected_oks_of_axis, oks_falloff

__all__ = ["SimCCCodec"]


@KEYPOINT_CODEC_REGISTRY.register()
class SimCCCodec(KeypointCodec):
    """Two lines of bins for each keypoint, finer than a map's cells.

    After Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation",
    ECCV 2022: the target of each axis is a Gaussian over bins (their sec. 3.3), the loss its
    Kullback-Leibler divergence from the softmax, the mean of the two axes. Theirs decodes to the
    highest bin; here the peak is found between bins, as for heatmaps, because a bin of a large box is
    still pixels wide. Bins are parts of the box ("half_pixel" of :mod:`coordinates`).

    Points outside the box do not count. Scores: "max", the highest bin over that of lines that fit, the
    geometric mean of the axes, at most 1; "oks", the expected share of OKS, see
    :func:`expected_oks_of_axis`.
    """

    name = "simcc"
    kind = "bins"
    scores = ("max", "oks")

    @configurable
    def __init__(self, *, sigma: float = 6.0, **kwargs) -> None:
        """
        Args:
            sigma: standard deviation of the targets, in bins.
            kwargs: see KeypointCodec.

        Raises:
            ConfigError: a value is out of range.
        """
        super().__init__(**kwargs)
        if not sigma > 0:
            raise ConfigError(
                f"MRCNN_EXT.KEYPOINT_HEAD.SIMCC.SIGMA is {sigma}, expected more than 0."
            )
        self.sigma = sigma

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {**super().from_config(cfg), "sigma": cfg.MRCNN_EXT.KEYPOINT_HEAD.SIMCC.SIGMA}

    def encode(
        self, boxes: Tensor, keypoints: Tensor, size: tuple[int, int]
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """((R, K, bins of x), (R, K, bins of y)), each summing to 1; (R, K) bool."""
        positions = image_to_map(keypoints[..., :2].float(), boxes.float(), size)
        valid = inside_and_labelled(boxes, keypoints)
        positions = torch.where(valid[..., None], positions, 0.0)
        x = gaussian_lines(positions[..., 0], size[0], self.sigma)
        y = gaussian_lines(positions[..., 1], size[1], self.sigma)
        return (x, y), valid

    def loss(
        self,
        predictions: tuple[Tensor, Tensor],
        boxes: Tensor,
        keypoints: Tensor,
        normalizer: float | None = None,
    ) -> Tensor:
        """Divergence of targets from the softmax. ``predictions``: (R, K, bins) logits of x, of y."""
        lines = [item.float() for item in predictions]
        bins = (lines[0].shape[2], lines[1].shape[2])
        targets, valid = self.encode(boxes, keypoints, bins)
        x, y = (_divergence(target, line) for target, line in zip(targets, lines))
        return self.reduce((x + y) / 2, valid, normalizer)

    @torch.no_grad()
    def decode(self, predictions: tuple[Tensor, Tensor], boxes: Tensor) -> Tensor:
        """(R, K, 3) x, y, score. ``predictions``: (R, K, bins) logits of x and of y."""
        lines = [item.float() for item in predictions]
        boxes = boxes.float()
        bins = (lines[0].shape[2], lines[1].shape[2])
        peaks = [
            peak_1d(line.flatten(0, 1))
            .view(line.shape[:2])
            .clamp(min=-0.5, max=line.shape[2] - 0.5)
            for line in lines
        ]
        points = map_to_image(torch.stack(peaks, dim=2), boxes, bins)
        score = self._score(lines, peaks, boxes, bins)
        return torch.cat([points, score[..., None]], dim=2)

    def _score(
        self, lines: list[Tensor], peaks: list[Tensor], boxes: Tensor, bins: tuple[int, int]
    ) -> Tensor:
        probabilities = [line.softmax(dim=2) for line in lines]
        if self.score == "max":
            x, y = (
                item.amax(dim=2) * (math.sqrt(2 * math.pi) * self.sigma) for item in probabilities
            )
            return (x.clamp(max=1) * y.clamp(max=1)).sqrt()
        falloff = oks_falloff(self, boxes, peaks[0])
        sides = cell_sides(boxes, bins)
        x, y = (
            expected_oks_of_axis(probability, peak, sides[:, axis], falloff)
            for axis, (probability, peak) in enumerate(zip(probabilities, peaks))
        )
        return x * y


def _divergence(target: Tensor, logits: Tensor) -> Tensor:
    """(R, K) Kullback-Leibler divergence of (R, K, B) targets from softmax(logits)."""
    return (torch.special.xlogy(target, target) - target * logits.log_softmax(dim=2)).sum(dim=2)
