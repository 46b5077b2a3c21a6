# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Classification losses for rare classes and hard examples, in place of plain cross entropy.

All are sums over the sampled RoIs divided by their number, as Detectron2's cross entropy is: its
learning rates and the balance with the loss of boxes stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ..class_weights import ClassWeights, class_balanced_weights, class_weights_from_config

__all__ = ["ClassBalancedLoss", "FocalLoss", "build_classification_loss", "class_balanced_weights"]


def build_classification_loss(cfg) -> nn.Module | None:
    """The loss that ``MRCNN_EXT.BOX_HEAD`` describes; None for Detectron2's own.

    Raises:
        ConfigError: an unknown name, weights that cannot be, or classes that are scored by sigmoids.
    """
    node = cfg.get("MRCNN_EXT", {}).get("BOX_HEAD")  # configs of older versions lack it
    if node is None:
        return None
    weights = class_weights_from_config(cfg, "BOX_HEAD")
    if not node.CLS_LOSS and weights is None:
        return None
    if cfg.MODEL.ROI_BOX_HEAD.get("USE_SIGMOID_CE", False):  # Detectron2's main has it
        what = f"CLS_LOSS is '{node.CLS_LOSS}'" if node.CLS_LOSS else "CLASS_WEIGHTS is set"
        raise ConfigError(
            f"MRCNN_EXT.BOX_HEAD.{what}, a loss of softmax scores; expected "
            "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE to be False."
        )
    if node.CLS_LOSS == "focal":
        return FocalLoss(gamma=node.FOCAL_GAMMA, class_weights=weights)
    if node.CLS_LOSS not in ("", "class_balanced"):
        raise ConfigError(
            f"MRCNN_EXT.BOX_HEAD.CLS_LOSS is '{node.CLS_LOSS}'; expected '', 'focal' or "
            "'class_balanced'."
        )
    if weights is None:
        return None
    return ClassBalancedLoss(num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES, class_weights=weights)


class FocalLoss(nn.Module):
    """Softmax focal loss (Lin et al., ICCV 2017): the mean of (1 - p)^gamma · -log p over all RoIs.

    p is the probability of the true class, background included. The paper divides by the number of
    positive anchors, since nearly all anchors are negative; RoIs are sampled in a fixed ratio.
    """

    def __init__(self, *, gamma: float = 2.0, class_weights: ClassWeights | None = None) -> None:
        """
        Args:
            gamma: 0 is cross entropy; the larger, the less do RoIs count that are right already.
            class_weights: factors of the RoIs by class; None: none.

        Raises:
            ConfigError: gamma is negative or not finite.
        """
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise ConfigError(f"gamma of FocalLoss is {gamma!r}; expected a number, at least 0.")
        self.gamma = gamma
        self.class_weights = class_weights

    @torch.jit.unused  # a scripted model has no losses
    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """
        Args:
            logits: (R, K + 1), the last column for background.
            classes: (R,) int64 in 0 … K.

        Returns:
            () float32; 0 with gradients if R is 0.
        """
        if not len(classes):
            return logits.sum() * 0.0
        log_p = _log_probability(logits, classes)
        # 1 - p to full precision, and at 0 without the infinite slope of exponents below 1
        easiness = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        terms = easiness**self.gamma * log_p
        if self.class_weights is not None:
            terms = self.class_weights(classes) * terms
        return -terms.mean()


class ClassBalancedLoss(nn.Module):
    """Cross entropy weighted by class: by default, by the effective number of objects of each class.

    (Cui et al., CVPR 2019.) Background has the weight 1. A weighted mean would divide by the sum of the
    weights, and rare classes alone in a batch would count no more: this divides by the number of RoIs.
    """

    __jit_unused_properties__ = ["class_weights"]

    def __init__(
        self,
        *,
        num_classes: int,
        beta: float = 0.999,
        dataset_names: str | Sequence[str] = (),
        class_weights: ClassWeights | Sequence[float] | None = None,
    ) -> None:
        """
        Args:
            num_classes: K.
            beta: of :func:`class_balanced_weights`.
            dataset_names: registered data sets whose objects are counted.
            class_weights: other weights, or K numbers, in place of counting.

        Raises:
            ConfigError: not K weights, or neither weights nor data sets.
        """
        super().__init__()
        if class_weights is None:
            if not dataset_names:
                raise ConfigError(
                    "ClassBalancedLoss has neither class_weights nor dataset_names (DATASETS.TRAIN) to "
                    "count objects in."
                )
            class_weights = ClassWeights(
                num_classes=num_classes,
                rule="class_balanced",
                beta=beta,
                dataset_names=dataset_names,
                loss="classification loss",
            )
        elif not isinstance(class_weights, ClassWeights):
            if len(class_weights) != num_classes:
                raise ConfigError(
                    f"class_weights of ClassBalancedLoss has {len(class_weights)} numbers; expected "
                    f"one for each of {num_classes} classes."
                )
            class_weights = ClassWeights(num_classes=num_classes, factors=list(class_weights))
        self._weights = class_weights

    @property
    def class_weights(self) -> Tensor:
        """(K + 1,) float32, with background; all 1 until objects are counted."""
        return self._weights.weights

    @torch.jit.unused  # a scripted model has no losses
    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """As :meth:`FocalLoss.forward`.

        Raises:
            ConfigError, DataError: in the first call, as :meth:`ClassWeights.forward`.
        """
        weights = self._weights(classes)
        if not len(classes):
            return logits.sum() * 0.0
        return -(weights * _log_probability(logits, classes)).mean()


def _log_probability(logits: Tensor, classes: Tensor) -> Tensor:
    """(R,) float32: of the true classes."""
    return F.log_softmax(logits.float(), dim=1).gather(1, classes[:, None])[:, 0]
