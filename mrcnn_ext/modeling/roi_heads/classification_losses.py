# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Classification losses for rare classes and hard examples, in place of plain cross entropy.

All are sums over the sampled RoIs divided by their number, as Detectron2's cross entropy is: its
learning rates and the balance with the loss of boxes stay.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.class_counts import count_instances
from ...errors import ConfigError, DataError
from ...messages import shorten

__all__ = ["ClassBalancedLoss", "FocalLoss", "build_classification_loss", "class_balanced_weights"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


def build_classification_loss(cfg) -> nn.Module | None:
    """The loss that ``MRCNN_EXT.BOX_HEAD.CLS_LOSS`` names; None for Detectron2's own.

    Raises:
        ConfigError: an unknown name, or classes that are scored by sigmoids.
    """
    node = cfg.get("MRCNN_EXT", {}).get("BOX_HEAD")  # configs of older versions lack it
    if node is None or not node.CLS_LOSS:
        return None
    if cfg.MODEL.ROI_BOX_HEAD.get("USE_SIGMOID_CE", False):  # Detectron2's main has it
        raise ConfigError(
            f"MRCNN_EXT.BOX_HEAD.CLS_LOSS is '{node.CLS_LOSS}', a loss of softmax scores; expected "
            "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE to be False."
        )
    if node.CLS_LOSS == "focal":
        return FocalLoss(gamma=node.FOCAL_GAMMA)
    if node.CLS_LOSS == "class_balanced":
        return ClassBalancedLoss(
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            beta=node.CLASS_BALANCED_BETA,
            dataset_names=tuple(cfg.DATASETS.TRAIN),
        )
    raise ConfigError(
        f"MRCNN_EXT.BOX_HEAD.CLS_LOSS is '{node.CLS_LOSS}'; expected '', 'focal' or 'class_balanced'."
    )


class FocalLoss(nn.Module):
    """Softmax focal loss (Lin et al., ICCV 2017): the mean of (1 - p)^gamma · -log p over all RoIs.

    p is the probability of the true class, background included. The paper divides by the number of
    positive anchors, since nearly all anchors are negative; RoIs are sampled in a fixed ratio.
    """

    def __init__(self, *, gamma: float = 2.0) -> None:
        """
        Args:
            gamma: 0 is cross entropy; the larger, the less do RoIs count that are right already.

        Raises:
            ConfigError: gamma is negative or not finite.
        """
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise ConfigError(f"gamma of FocalLoss is {gamma!r}; expected a number, at least 0.")
        self.gamma = gamma

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
        return -(easiness**self.gamma * log_p).mean()


class ClassBalancedLoss(nn.Module):
    """Cross entropy weighted by the effective number of objects of each class (Cui et al., CVPR 2019).

    Weights are those of :func:`class_balanced_weights`, and 1 for background. The objects are counted
    when the first loss is computed, so that a trained model needs no training data. A weighted mean
    would divide by the sum of the weights, and rare classes alone in a batch would count no more.
    """

    class_weights: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        beta: float = 0.999,
        dataset_names: str | Sequence[str] = (),
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """
        Args:
            num_classes: K.
            beta: of :func:`class_balanced_weights`.
            dataset_names: registered data sets whose objects are counted.
            class_weights: K weights, in place of counting.

        Raises:
            ConfigError: not K weights, or neither weights nor data sets.
        """
        super().__init__()
        if class_weights is not None and len(class_weights) != num_classes:
            raise ConfigError(
                f"class_weights of ClassBalancedLoss has {len(class_weights)} numbers; expected one "
                f"for each of {num_classes} classes."
            )
        if class_weights is None and not dataset_names:
            raise ConfigError(
                "ClassBalancedLoss has neither class_weights nor dataset_names (DATASETS.TRAIN) to "
                "count objects in."
            )
        self.beta = beta
        names = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
        self._uncounted = names if class_weights is None else []
        weights = torch.ones(num_classes + 1)
        if class_weights is not None:
            weights[:-1] = torch.tensor(list(class_weights), dtype=torch.float32)
        # Checkpoints have the same keys with and without this loss.
        self.register_buffer("class_weights", weights, persistent=False)

    @torch.jit.unused  # a scripted model has no losses
    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """As :meth:`FocalLoss.forward`.

        Raises:
            DataError: in the first call, the data sets have no objects or some of other classes.
        """
        if self._uncounted:
            self._count()
        if not len(classes):
            return logits.sum() * 0.0
        return -(self.class_weights[classes] * _log_probability(logits, classes)).mean()

    def _count(self) -> None:
        names = self._uncounted
        counts = count_instances(names, len(self.class_weights) - 1)
        if not any(counts):
            raise DataError(
                f"{', '.join(map(repr, names))}: no objects, which the class-balanced loss counts."
            )
        weights = class_balanced_weights(counts, self.beta)
        self.class_weights[:-1] = torch.tensor(weights).to(self.class_weights)
        self._uncounted = []
        if comm.is_main_process():
            _describe(names, counts, weights)


def _describe(names: Sequence[str], counts: Sequence[int], weights: Sequence[float]) -> None:
    classes = MetadataCatalog.get(names[0]).get("thing_classes") or range(len(counts))
    listed = [f"{c} {w:.3g}" for c, n, w in zip(classes, counts, weights) if n]
    logger.info(f"Weights of the class-balanced loss: {shorten(listed, 20)}.")
    missing = [f"'{c}'" for c, n in zip(classes, counts) if not n]
    if missing:
        logger.warning(
            f"The class-balanced loss counts no object of {shorten(missing, 20)} in "
            f"{', '.join(map(repr, names))}: the model cannot learn "
            + ("it." if len(missing) == 1 else "them.")
        )


def class_balanced_weights(counts: Sequence[int], beta: float) -> list[float]:
    """Weights (1 - beta) / (1 - beta^n), of which classes with objects have the mean 1.

    A class without objects gets the weight of one with a single object. It is no part of the mean:
    its large weight, which no training example has, would make all others small.

    Args:
        counts: n, of each class.
        beta: 0 gives all the same weight; near 1, weights go as 1 / n.

    Raises:
        ConfigError: beta is not in 0 … 1, 1 excluded.
    """
    if not 0 <= beta < 1:
        raise ConfigError(f"beta is {beta!r}; expected a number, at least 0 and less than 1.")
    raw = [(1 - beta) / (1 - beta ** max(n, 1)) for n in counts]
    present = [weight for weight, n in zip(raw, counts) if n]
    mean = sum(present) / len(present) if present else 1.0
    return [weight / mean for weight in raw]


def _log_probability(logits: Tensor, classes: Tensor) -> Tensor:
    """(R,) float32: of the true classes."""
    return F.log_softmax(logits.float(), dim=1).gather(1, classes[:, None])[:, 0]
