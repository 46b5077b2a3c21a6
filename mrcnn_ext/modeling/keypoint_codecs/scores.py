# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Scores of keypoints: the OKS to expect from the spread of a prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import KeypointCodec
from .coordinates import box_sides, cell_sides, image_to_map

__all__ = ["expected_oks_of_axis", "expected_oks_of_map", "oks_falloff"]


def oks_falloff(codec: KeypointCodec, boxes: Tensor, like: Tensor) -> Tensor:
    """(R, K) numbers a, in 1 / pixels^2, for which exp(-a d^2) is a keypoint's share of OKS.

    In COCO's OKS, a = 1 / (2 A k^2) with twice the keypoint's constant k and the object's area A. Here
    A is the box's area, as a mask's is not known.
    """
    area = box_sides(boxes).prod(dim=1)
    factors = 2 * codec.sigmas_like(like)
    return 1 / (2 * area[:, None] * factors.square())


def expected_oks_of_axis(
    probabilities: Tensor, positions: Tensor, cells: Tensor, falloff: Tensor
) -> Tensor:
    """E exp(-a d^2) along one axis, for true positions distributed over the cells.

    Args:
        probabilities: (R, K, S).
        positions: (R, K) of the decoded keypoint, in cells.
        cells: (R,) pixels of a cell.
        falloff: (R, K) a.

    Returns:
        (R, K) in 0 ... 1.
    """
    return (probabilities * _weights(probabilities.shape[2], positions, cells, falloff)).sum(dim=2)


def expected_oks_of_map(
    logits: Tensor, keypoints: Tensor, boxes: Tensor, falloff: Tensor, frame: str
) -> Tensor:
    """Expected OKS of decoded keypoints, if the map is the distribution of the true position.

    That is the sum over cells of softmax(logits) exp(-a d^2), d being a cell's distance from the
    decoded keypoint: 1 for a map that is sure, lower for one that is spread or has a second mode, and
    less so on a large object than on a small one.

    Args:
        logits: (R, K, H, W).
        keypoints: (R, K, 2) decoded, in pixels of the image.
        boxes: (R, 4).
        falloff: (R, K), from :func:`oks_falloff`.
        frame: of the map's coordinates.

    Returns:
        (R, K).
    """
    height, width = logits.shape[2:]
    positions = image_to_map(keypoints, boxes, (width, height), frame)
    cells = cell_sides(boxes, (width, height), frame)
    x = _weights(width, positions[..., 0], cells[:, 0], falloff)
    y = _weights(height, positions[..., 1], cells[:, 1], falloff)
    probabilities = logits.flatten(2).softmax(dim=2).view_as(logits)
    return ((probabilities * x[:, :, None]).sum(dim=3) * y).sum(dim=2)


def _weights(size: int, positions: Tensor, cells: Tensor, falloff: Tensor) -> Tensor:
    index = torch.arange(size, device=positions.device, dtype=positions.dtype)
    distance = (index - positions[..., None]) * cells[:, None, None]
    return torch.exp(-falloff[..., None] * distance.square())
