# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What all keypoint codecs share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import ConfigError

__all__ = ["DEFAULT_OKS_SIGMA", "KeypointCodec", "inside_and_labelled"]

# For keypoints whose spread between annotators nobody measured; COCO's are .025 (eyes) to .107 (hips).
DEFAULT_OKS_SIGMA = 0.05


class KeypointCodec(nn.Module):
    """Turns keypoints into what a head is to predict, and predictions into keypoints.

    A codec knows nothing of heads, images and RoI heads: it works on the predictions of R regions for K
    keypoints, on their boxes (R, 4) and, in training, on keypoints (R, K, 3) of x, y, visibility.
    Coordinates are continuous (a pixel's centre is at .5) and in pixels of the image that boxes are in.
    Everything is computed for all regions at once and in float32; R may be 0. Visibility 0 is "not
    labelled" and never counts; 1 (hidden) and 2 (visible) count alike, as in Detectron2.
    """

    # What "score" may be: how the third number of a decoded keypoint is made. The first is the default.
    scores: tuple[str, ...] = ()

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

    def loss(
        self, predictions, boxes: Tensor, keypoints: Tensor, normalizer: float | None = None
    ) -> Tensor:
        """The sum of the keypoints' losses, divided by ``normalizer``.

        Args:
            predictions: what the head made for R regions.
            boxes: (R, 4) the regions.
            keypoints: (R, K, 3) x, y, visibility.
            normalizer: None: the number of keypoints that count, at least 1.

        Returns:
            a float32 scalar that has a gradient for all predictions, also where none counts. No value
            is read back to the host.
        """
        raise NotImplementedError

    @torch.no_grad()
    def decode(self, predictions, boxes: Tensor) -> Tensor:
        """(R, K, 3) float32 x, y, score of what was predicted for boxes (R, 4)."""
        raise NotImplementedError

    def sigmas_like(self, scores: Tensor) -> Tensor:
        """(K,) OKS constants for (R, K) scores.

        Raises:
            ConfigError: there are as many as some other number of keypoints.
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
    """(R, K) bool: labelled, and in the closed box. Others cannot be named by a map over the box."""
    points = keypoints[..., :2]
    inside = (points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])
    return inside.all(dim=2) & (keypoints[..., 2] > 0)
