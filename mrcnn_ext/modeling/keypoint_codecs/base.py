# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What all keypoint codecs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from torch import Tensor, nn

from ...errors import ConfigError
from ...skeletons import DEFAULT_SIGMA as DEFAULT_OKS_SIGMA

__all__ = ["DEFAULT_OKS_SIGMA", "KeypointCodec", "inside_and_labelled"]


class KeypointCodec(nn.Module):
    """Encodes keypoints as targets for a head, and decodes the head's predictions to keypoints.

    A codec knows nothing of heads, images or RoI heads. It works on predictions for K keypoints in R
    regions, on the regions' boxes (R, 4) and, in training, on keypoints (R, K, 3) of x, y, visibility.
    Coordinates are continuous (a pixel's centre is at .5), in pixels of the image that the boxes are
    in. All regions are computed at once and in float32; R may be 0. Visibility 0 is "not labelled" and
    never counts; 1 (hidden) and 2 (visible) count alike, as in Detectron2.

    Register a subclass in ``KEYPOINT_CODEC_REGISTRY`` to select it by config.
    """

    # What MRCNN_EXT.KEYPOINT_HEAD.CODEC calls the codec; "": by the name of its class.
    name = ""
    # Which predictions it takes; a head has codecs of one kind. "heatmap": (R, K, H, W) logits of maps,
    # "bins": a pair of (R, K, bins) logits of x and of y, "distribution": (R, K, 4).
    kind = ""
    # Values of "score": how the third number of a decoded keypoint is made. The first is the default.
    scores: tuple[str, ...] = ()

    @configurable
    def __init__(self, *, score: str = "", oks_sigmas: Sequence[float] = ()) -> None:
        """
        Args:
            score: one of the codec's ``scores``; "": the first of them.
            oks_sigmas: COCO's per-keypoint constants for the score "oks"; empty: .05 for each.

        Raises:
            ConfigError: the codec has no such score.
        """
        super().__init__()
        if score and score not in self.scores:
            raise ConfigError(
                f"MRCNN_EXT.KEYPOINT_HEAD.SCORE is '{score}', but {type(self).__name__} has "
                f"{list(self.scores)}."
            )
        self.score = score or self.scores[0]
        self.oks_sigmas = list(oks_sigmas)

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {
            "score": cfg.MRCNN_EXT.KEYPOINT_HEAD.SCORE,
            "oks_sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS,
        }

    def encode(self, boxes: Tensor, keypoints: Tensor, size: tuple[int, int]) -> tuple[Any, Tensor]:
        """Targets, and which of them count.

        Args:
            boxes: (R, 4).
            keypoints: (R, K, 3) x, y, visibility.
            size: width and height of the map, or bins along x and along y. Codecs that predict
                coordinates ignore it.

        Returns:
            targets for R x K keypoints, a tensor or a tuple of tensors, and (R, K) bool.
        """
        raise NotImplementedError

    def loss(
        self, predictions: Any, boxes: Tensor, keypoints: Tensor, normalizer: float | None = None
    ) -> Tensor:
        """Sum of the keypoints' losses, divided by ``normalizer``.

        Args:
            predictions: the head's, for R regions.
            boxes: (R, 4) the regions.
            keypoints: (R, K, 3) x, y, visibility.
            normalizer: None: the number of keypoints that count, at least 1.

        Returns:
            a float32 scalar with a gradient for all predictions, even if no keypoint counts. It reads
            no value back to the host.
        """
        raise NotImplementedError

    @torch.no_grad()
    def decode(self, predictions: Any, boxes: Tensor) -> Tensor:
        """(R, K, 3) float32 x, y, score of the predictions for boxes (R, 4)."""
        raise NotImplementedError

    def sigmas_like(self, scores: Tensor) -> Tensor:
        """(K,) OKS constants for (R, K) scores.

        Raises:
            ConfigError: their number is not that of the keypoints.
        """
        number = scores.shape[1]
        sigmas = self.oks_sigmas or [DEFAULT_OKS_SIGMA] * number
        if len(sigmas) != number:
            raise ConfigError(
                f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers, expected one for each of "
                f"{number} keypoints, or none."
            )
        return scores.new_tensor(sigmas)

    @staticmethod
    def reduce(losses: Tensor, valid: Tensor, normalizer: float | None) -> Tensor:
        """Sum of (R, K) losses where ``valid`` (R, K) over the normaliser of :meth:`loss`."""
        total = torch.where(valid, losses, 0.0).sum()
        return total / (valid.sum().clamp(min=1) if normalizer is None else normalizer)


def inside_and_labelled(boxes: Tensor, keypoints: Tensor) -> Tensor:
    """(R, K) bool: labelled, and in the closed box. A map over the box has no place for others."""
    points = keypoints[..., :2]
    inside = (points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])
    return inside.all(dim=2) & (keypoints[..., 2] > 0)
