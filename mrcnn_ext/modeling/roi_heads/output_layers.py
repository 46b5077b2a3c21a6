# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""FastRCNNOutputLayers with another classification loss."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn

from ...errors import ConfigError
from .classification_losses import build_classification_loss

__all__ = ["MrcnnExtOutputLayers", "set_classification_loss"]


class MrcnnExtOutputLayers(FastRCNNOutputLayers):
    """Detectron2's FastRCNNOutputLayers (same keys, state_dict and results) with another ``loss_cls``.

    Its other losses, and what it predicts, are Detectron2's.
    """

    @configurable
    def __init__(self, *args, classification_loss: nn.Module | None = None, **kwargs) -> None:
        """
        Args:
            args, kwargs: as for FastRCNNOutputLayers.
            classification_loss: takes logits (R, K + 1) and classes (R,), returns a scalar, as
                FocalLoss and ClassBalancedLoss do. None: Detectron2's cross entropy.

        Raises:
            ConfigError: a loss is given, but classes are scored by sigmoids (``use_sigmoid_ce``).
        """
        super().__init__(*args, **kwargs)
        if classification_loss is not None and getattr(self, "use_sigmoid_ce", False):
            raise ConfigError(
                "classification_loss is of softmax scores; expected no use_sigmoid_ce."
            )
        self.classification_loss = classification_loss

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        loss = build_classification_loss(cfg)
        return {**super().from_config(cfg, input_shape), "classification_loss": loss}

    @torch.jit.unused
    def losses(self, predictions, proposals):
        """As FastRCNNOutputLayers.losses."""
        losses = super().losses(predictions, proposals)  # counts accuracies, too
        if self.classification_loss is not None:
            classes = cat([item.gt_classes for item in proposals])
            loss = self.classification_loss(predictions[0], classes)
            losses["loss_cls"] = loss * self.loss_weight.get("loss_cls", 1.0)
        return losses


def set_classification_loss(arguments: dict, cfg) -> dict:
    """Give the box predictors among the arguments of RoI heads the loss that ``cfg`` names.

    They stay the same modules with the same initial weights; stages of a cascade share the loss.

    Args:
        arguments: with "box_predictor" or "box_predictors"; are changed, and returned.
        cfg: as for :func:`~.classification_losses.build_classification_loss`.
    """
    loss = build_classification_loss(cfg)
    if loss is None:
        return arguments
    predictors = arguments.get("box_predictors") or [arguments["box_predictor"]]
    for predictor in predictors:
        # Built by Detectron2's heads, which have no other place for a class of ours. A new module would
        # draw other initial weights than those that the seed gives without the key.
        if type(predictor) is not FastRCNNOutputLayers:
            raise ConfigError(
                "MRCNN_EXT.BOX_HEAD.CLS_LOSS or .CLASS_WEIGHTS is set, but "
                f"{type(predictor).__name__} has a loss of its own; expected FastRCNNOutputLayers."
            )
        predictor.__class__ = MrcnnExtOutputLayers
        predictor.classification_loss = loss
    return arguments
