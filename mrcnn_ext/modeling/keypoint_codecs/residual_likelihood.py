# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Regression with a learned distribution of its errors."""

from __future__ import annotations

import math

import torch
from detectron2.config import configurable
from torch import Tensor

from ..._moved import moved_names
from ...errors import ConfigError
from .base import KeypointCodec
from .coordinates import box_sides
from .flow import RealNVP
from .registry import KEYPOINT_CODEC_REGISTRY
from .scores import oks_falloff

__all__ = ["ResidualLikelihoodCodec"]

__getattr__ = moved_names(__name__, {"RLECodec": f"{__name__}:ResidualLikelihoodCodec"})

# In sides of the box; a prediction that is surer than this gains nothing.
_SMALLEST_SIGMA = 1e-3


@KEYPOINT_CODEC_REGISTRY.register()
class ResidualLikelihoodCodec(KeypointCodec):
    """Position and uncertainty of each keypoint by residual log-likelihood estimation.

    After Li et al., "Human Pose Regression with Residual Log-likelihood Estimation", ICCV 2021: a head
    predicts a mean and a deviation for each axis. With the error e = (truth - mean) / deviation, the
    likelihood of the truth is Q(e) G(e) / deviation up to a constant, where Q is a Laplace density and
    the residual G is what a normalising flow, trained along and not used in inference, learns of the
    true shape of errors. Minimised is (their equation 11 without the constant log s)

        -log Q(e) - log G(e) + log(deviation_x) + log(deviation_y).

    Units are sides of the box, from its centre: -.5 to .5 is inside. Points outside count too, up to
    ``limit`` from the centre; farther ones do not. Scores: "sigma", 1 minus the mean deviation of the
    two axes (in sides of the box); "oks", the share of OKS that is expected of Laplace errors with
    these deviations, in closed form.
    """

    name = "residual_likelihood"
    kind = "distribution"
    scores = ("sigma", "oks")

    @configurable
    def __init__(
        self,
        *,
        limit: float = 1.0,
        residual: bool = True,
        flow_steps: int = 6,
        flow_width: int = 64,
        **kwargs,
    ) -> None:
        """
        Args:
            limit: how far from the centre a labelled point may be to count, in sides of the box.
            residual: learn the shape of errors with a flow; False: assume Laplace's.
            flow_steps, flow_width: of :class:`RealNVP`.
            kwargs: see KeypointCodec.

        Raises:
            ConfigError: a value is out of range.
        """
        super().__init__(**kwargs)
        if not limit >= 0.5:
            raise ConfigError(
                f"MRCNN_EXT.KEYPOINT_HEAD.RLE.LIMIT is {limit}, expected .5 (the box) or more."
            )
        self.limit = limit
        self.flow = RealNVP(steps=flow_steps, width=flow_width) if residual else None

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MRCNN_EXT.KEYPOINT_HEAD.RLE
        return {**super().from_config(cfg), "limit": node.LIMIT, "residual": node.FLOW}

    def encode(
        self, boxes: Tensor, keypoints: Tensor, size: tuple[int, int] = (1, 1)
    ) -> tuple[Tensor, Tensor]:
        """(R, K, 2) x, y from the centre in sides of the box, 0 where they do not count; (R, K) bool.

        ``size`` has no influence.
        """
        boxes = boxes.float()
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        positions = (keypoints[..., :2].float() - centre[:, None]) / box_sides(boxes)[:, None]
        valid = (positions.abs() <= self.limit).all(dim=2) & (keypoints[..., 2] > 0)
        return torch.where(valid[..., None], positions, 0.0), valid

    def loss(
        self,
        predictions: Tensor,
        boxes: Tensor,
        keypoints: Tensor,
        normalizer: float | None = None,
    ) -> Tensor:
        """Negative log-likelihood.

        ``predictions``: (R, K, 4) mean x, y in sides of the box, logits of the deviations of x, y.
        """
        positions, valid = self.encode(boxes, keypoints)
        with torch.autocast(predictions.device.type, enabled=False):
            mean, deviation = _mean_and_deviation(predictions)
            error = (positions - mean) / deviation
            losses = (error.abs() + math.log(2) + deviation.log()).sum(dim=2)
            if self.flow is not None:
                density = self.flow.log_density(error.flatten(0, 1))
                losses = losses - density.view_as(losses)
        return self.reduce(losses, valid, normalizer)

    @torch.no_grad()
    def decode(self, predictions: Tensor, boxes: Tensor) -> Tensor:
        """(R, K, 3) x, y, score. ``predictions``: (R, K, 4), see :meth:`loss`."""
        mean, deviation = _mean_and_deviation(predictions)
        boxes = boxes.float()
        sides = box_sides(boxes)[:, None]
        points = mean * sides + ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]
        if self.score == "sigma":
            score = 1 - deviation.mean(dim=2)
        else:
            falloff = oks_falloff(self, boxes, points[..., 0])
            score = _expected_share(deviation * sides, falloff[..., None]).prod(dim=2)
        return torch.cat([points, score[..., None]], dim=2)


def _mean_and_deviation(predictions: Tensor) -> tuple[Tensor, Tensor]:
    predictions = predictions.float()
    return predictions[..., :2], predictions[..., 2:].sigmoid().clamp(min=_SMALLEST_SIGMA)


def _expected_share(deviation: Tensor, falloff: Tensor) -> Tensor:
    """E exp(-a x^2) for x of a Laplace density with mean absolute value b: a Gaussian integral."""
    root = falloff.sqrt()
    return (
        math.sqrt(math.pi)
        / (2 * deviation * root)
        * torch.special.erfcx(1 / (2 * deviation * root))
    )
