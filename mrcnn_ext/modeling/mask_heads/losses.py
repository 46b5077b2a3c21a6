# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Losses between mask logits and binary targets, and their weighted sum, for every mask head.

Each takes a weight for each mask, (R,), or None. It multiplies the mask's terms; what they are divided
by stays, so that masks of rare classes alone in a batch count more, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import ConfigError
from ...messages import similar

__all__ = [
    "MASK_LOSSES",
    "MaskLoss",
    "boundary_band",
    "check_loss_names",
    "laplacian",
    "mean_over_masks",
    "mean_over_pixels",
]


def bce_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross entropy over all pixels: the loss of Mask R-CNN (He et al. 2017, sec. 3).

    Points (R, P) in the place of masks (R, M, M) will do.
    """
    per_mask = None if weights is None else weights.view(len(weights), *[1] * (logits.dim() - 1))
    return F.binary_cross_entropy_with_logits(logits, targets, weight=per_mask)


def dice_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - Dice of each mask, with squares in the denominator (Milletari et al. 2016, eq. 5)."""
    return _soft_dice(logits.sigmoid(), targets, weights)


def lovasz_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Lovász hinge of each mask, a convex surrogate of its IoU (Berman et al. 2018, eq. 9 and 11)."""
    flat, truth = logits.flatten(1), targets.flatten(1)
    errors, order = (1 - flat * (2 * truth - 1)).sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    positives = truth.sum(1, keepdim=True)
    intersection = positives - truth.cumsum(1)
    union = positives + (1 - truth).cumsum(1)
    jaccard = 1 - intersection / union
    # The gradient of the extension: how much each error, in descending order, adds to the loss.
    gradient = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    return mean_over_masks((errors.relu() * gradient).sum(1), weights)


def boundary_bce_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross entropy where pixels next to the target's boundary count five times."""
    counted = 1 + 4 * boundary_band(targets, 1)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return mean_over_pixels(losses, counted, weights)


def edge_dice_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - Dice between the edges of prediction and target.

    Edges are the absolute response of the 3 x 3 Laplacian, as in Cheng et al. 2020 (BMask), but of the
    mask itself instead of a second branch, so that any head can have it.
    """
    return _soft_dice(_edges(logits.sigmoid()), _edges(targets), weights)


def mean_over_masks(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of (R,) losses of masks, each times its weight."""
    return (values if weights is None else weights * values).mean()


def mean_over_pixels(losses: Tensor, counted: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of (R, M, M) losses, where a pixel counts as often as ``counted`` says.

    Args:
        losses, counted: (R, M, M).
        weights: (R,), factors of the losses of each mask.
    """
    terms = counted * losses
    if weights is not None:
        terms = weights[:, None, None] * terms
    return terms.sum() / counted.sum()


MASK_LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce_loss,
    "dice": dice_loss,
    "lovasz": lovasz_loss,
    "boundary_bce": boundary_bce_loss,
    "edge_dice": edge_dice_loss,
}


def check_loss_names(names: Sequence[str], key: str) -> None:
    """
    Raises:
        ConfigError: one is unknown, or there is none; names ``key``, which holds them.
    """
    unknown = [name for name in names if name not in MASK_LOSSES]
    if unknown or not names:
        near = [other for name in unknown for other in similar(str(name), MASK_LOSSES)]
        raise ConfigError(
            f"{key} is {list(names)}; expected one or more of {', '.join(MASK_LOSSES)}"
            + (f" (similar: {', '.join(near)})." if near else ".")
        )


class MaskLoss:
    """A weighted sum of :data:`MASK_LOSSES`."""

    def __init__(self, names: Sequence[str] = ("bce",), weights: Sequence[float] = (1.0,)) -> None:
        """
        Args:
            names: keys of :data:`MASK_LOSSES`.
            weights: one factor for each name.

        Raises:
            ConfigError: an unknown name, none at all, or another number of weights.
        """
        check_loss_names(names, "losses")
        if len(names) != len(weights):
            raise ConfigError(
                f"mask losses {list(names)} have {len(weights)} weights {list(weights)}; expected one "
                "for each."
            )
        self.names = list(names)
        self.terms = [(MASK_LOSSES[name], float(weight)) for name, weight in zip(names, weights)]

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """
        Args:
            logits: (R, M, M), any floating dtype; computed in float32.
            targets: (R, M, M), bool or 0 and 1.
            weights: (R,) of the masks; None: all the same.

        Returns:
            scalar; 0 with a gradient where R is 0.
        """
        logits = logits.float()
        if logits.shape[0] == 0:
            return logits.sum()
        targets = targets.to(logits.dtype)
        with torch.autocast(logits.device.type, enabled=False):
            # Without weights, so that a loss that somebody added need not know of them.
            more = () if weights is None else (weights,)
            return sum(factor * loss(logits, targets, *more) for loss, factor in self.terms)


def boundary_band(masks: Tensor, radius: int) -> Tensor:
    """Pixels within ``radius`` (Chebyshev distance) of a pixel of the other value.

    Args:
        masks: (R, M, M) of 0 and 1, floating dtype.
        radius: 1 marks one pixel on each side of a boundary. The border of the mask is no boundary.

    Returns:
        (R, M, M) of 0 and 1, in the dtype of ``masks``.
    """
    size = 2 * radius + 1
    planes = masks[:, None]
    # max_pool2d pads with -inf: pixels outside are neither inside nor outside of the mask.
    grown = F.max_pool2d(planes, size, stride=1, padding=radius)
    shrunk = -F.max_pool2d(-planes, size, stride=1, padding=radius)
    return (grown - shrunk)[:, 0]


def laplacian(masks: Tensor, border: str) -> Tensor:
    """The 3 x 3 Laplacian, 8 at the pixel and -1 at its neighbours.

    Args:
        masks: (R, M, M), floating dtype.
        border: how masks go on beyond their border, as for ``F.pad``: "constant" (with 0) or
            "replicate".

    Returns:
        (R, M, M).
    """
    kernel = masks.new_full((1, 1, 3, 3), -1.0)
    kernel[..., 1, 1] = 8.0
    return F.conv2d(F.pad(masks[:, None], (1, 1, 1, 1), mode=border), kernel)[:, 0]


def _soft_dice(predicted: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    predicted, targets = predicted.flatten(1), targets.flatten(1)
    overlap = 2 * (predicted * targets).sum(1) + 1
    lost = 1 - overlap / (predicted.square().sum(1) + targets.square().sum(1) + 1)
    return mean_over_masks(lost, weights)


def _edges(masks: Tensor) -> Tensor:
    return (laplacian(masks, "replicate").abs() / 8).clamp(max=1)
