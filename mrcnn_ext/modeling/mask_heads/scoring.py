# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The quality of a mask: learned (MaskIoU), or from its probabilities at no cost."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from detectron2.structures import Instances, PolygonMasks
from torch import Tensor, nn
from torch.nn import functional as F

from ...structures import IndexedBitMasks

__all__ = [
    "FREE_MASK_SCORES",
    "MASK_SCORES",
    "MaskIoUPredictor",
    "free_mask_quality",
    "mask_iou_target",
]

FREE_MASK_SCORES = ("mean_foreground", "certainty")
MASK_SCORES = ("mask_iou", *FREE_MASK_SCORES)


def free_mask_quality(kind: str, probabilities: Tensor) -> Tensor:
    """Quality of masks from their probabilities alone.

    Args:
        kind: "mean_foreground", the mean probability over pixels of at least .5 (0 if there is none),
            or "certainty", the mean of \\|2 p - 1\\| over all pixels.
        probabilities: (R, 1, M, M) in 0 ... 1.

    Returns:
        (R,) in 0 ... 1.
    """
    flat = probabilities.flatten(1)
    if kind == "certainty":
        return (2 * flat - 1).abs().mean(1)
    inside = (flat >= 0.5).to(flat.dtype)
    return (flat * inside).sum(1) / inside.sum(1).clamp(min=1)


class MaskIoUPredictor(nn.Module):
    """Predicts the IoU of a mask with the truth (Mask Scoring R-CNN, Huang et al. 2019, sec. 3.2).

    RoI features beside the mask, max-pooled to their size: 3 convolutions, one with stride 2, two fully
    connected layers, one output for each class. It trains on detached features and masks, so it does
    not change the training of detector and mask head.
    """

    def __init__(
        self, *, in_channels: int, resolution: int, num_classes: int, conv_dim: int, fc_dim: int
    ) -> None:
        """
        Args:
            in_channels, resolution: of the pooled features (R, in_channels, resolution, resolution).
            num_classes: foreground classes; 1 for one score whatever the class.
            conv_dim, fc_dim: widths; 256 and 1024 in the paper.
        """
        super().__init__()
        self.num_classes = num_classes
        widths = [in_channels + 1] + [conv_dim] * 4
        self.convs = nn.Sequential(
            *(
                Conv2d(
                    widths[i], widths[i + 1], 3, stride=1 + (i == 3), padding=1, activation=F.relu
                )
                for i in range(4)
            )
        )
        side = (resolution + 1) // 2
        self.fc1 = nn.Linear(conv_dim * side * side, fc_dim)
        self.fc2 = nn.Linear(fc_dim, fc_dim)
        self.predictor = nn.Linear(fc_dim, num_classes)
        for conv in self.convs:
            weight_init.c2_msra_fill(conv)
        for layer in (self.fc1, self.fc2):
            weight_init.c2_xavier_fill(layer)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.constant_(self.predictor.bias, 0)

    def forward(self, pooled: Tensor, probabilities: Tensor, classes: Tensor) -> Tensor:
        """
        Args:
            pooled: (R, C, P, P).
            probabilities: (R, 1, M, M).
            classes: (R,) int64.

        Returns:
            (R,) predicted IoU, not limited to 0 ... 1.
        """
        pooled = pooled.detach()
        masks = _max_pool(probabilities.detach().to(pooled.dtype), pooled.shape[-2:])
        x = self.convs(torch.cat([pooled, masks], dim=1)).flatten(1)
        x = self.predictor(self.fc2(self.fc1(x).relu()).relu())
        if self.num_classes == 1:
            return x[:, 0]
        return x.gather(1, classes[:, None])[:, 0]

    def loss(
        self, pooled: Tensor, probabilities: Tensor, classes: Tensor, target: Tensor
    ) -> Tensor:
        """Half the mean squared error over masks whose target (:func:`mask_iou_target`) is not 0."""
        if classes.shape[0] == 0:
            return sum(parameter.sum() for parameter in self.parameters()) * 0
        errors = (self(pooled, probabilities, classes).float() - target).square()
        counted = (target > 0).to(errors.dtype)
        return 0.5 * (errors * counted).sum() / counted.sum().clamp(min=1)


def _max_pool(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive max-pooling; where cells are whole pixels as plain one, which graphs can be made of."""
    before, after = [int(side) for side in masks.shape[-2:]], [int(side) for side in size]
    if any(a % b for a, b in zip(before, after)):
        return F.adaptive_max_pool2d(masks, after)
    return F.max_pool2d(masks, [a // b for a, b in zip(before, after)])


def mask_iou_target(
    probabilities: Tensor, targets: Tensor, boxes: Tensor, instances: list[Instances]
) -> Tensor:
    """IoU of predicted masks with whole objects, which may reach beyond the RoI.

    Args:
        probabilities: (R, 1, M, M) of the ground-truth class.
        targets: (R, M, M) bool: ground truth inside the RoIs.
        boxes: (R, 4) of the RoIs in pixels.
        instances: N Instances with "gt_masks", R in all.

    Returns:
        (R,) float32 without gradient: |P and T| / (|P| + |T| / a - |P and T|), where a is the fraction
        of the object's area inside the RoI (Huang et al. 2019, sec. 3.2).
    """
    predicted = (probabilities[:, 0].detach() >= 0.5).flatten(1).float()
    truth = targets.flatten(1).float()
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).float()
    inside = truth.mean(1) * sides[:, 0] * sides[:, 1]
    areas = torch.cat([_areas(x.gt_masks, inside) for x in instances])
    fraction = (inside / areas.clamp(min=1e-6)).clamp(min=1e-6, max=1)
    overlap = (predicted * truth).sum(1)
    union = predicted.sum(1) + truth.sum(1) / fraction - overlap
    return overlap / union.clamp(min=1e-6)


def _areas(gt_masks, like: Tensor) -> Tensor:
    """(n,) areas in pixels of PolygonMasks or BitMasks."""
    if isinstance(gt_masks, (PolygonMasks, IndexedBitMasks)):
        return torch.as_tensor(gt_masks.area(), dtype=like.dtype, device=like.device)
    return gt_masks.tensor.flatten(1).sum(1).to(like)
