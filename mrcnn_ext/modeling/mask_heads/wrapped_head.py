# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Scores, context and own pooling for mask heads of Detectron2 and of other plugins."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ...errors import ConfigError
from ...modes import restore_modes
from .base import MaskHeadBase, MaskHeadInputs

__all__ = ["MrcnnExtWrappedMaskHead"]


@ROI_MASK_HEAD_REGISTRY.register()
class MrcnnExtWrappedMaskHead(MaskHeadBase):
    """Any registered mask head, ``MRCNN_EXT.MASK_HEAD.WRAPPED``, with the switches around it.

    The inner head makes its own losses and masks from RoI features. Its losses cannot be chosen;
    regions, pooling, training classes and scores can. A learned score needs the inner head's masks in
    training, which costs a second pass through it without gradients.
    """

    @configurable
    def __init__(self, *, head: nn.Module, **kwargs) -> None:
        """
        Args:
            head: takes RoI features (R, C, P, P) and instances, as Detectron2's mask heads do.
            kwargs: see MaskHeadBase.

        Raises:
            ConfigError: losses or their weights by class are chosen, which belong to the inner head.
        """
        super().__init__(**kwargs)
        if self.mask_loss.names != ["bce"]:
            raise ConfigError(
                f"MRCNN_EXT.MASK_HEAD.LOSSES is {self.mask_loss.names}, but a wrapped head has losses "
                "of its own: leave ['bce'] there, or use MrcnnExtFCNMaskHead."
            )
        # An inner head of this package has them from the same config.
        if self.class_weights is not None and getattr(head, "class_weights", None) is None:
            raise ConfigError(
                "MRCNN_EXT.MASK_HEAD.CLASS_WEIGHTS (class_weights) is set, but the wrapped head, "
                f"{type(head).__name__}, has losses of its own, which do not follow it; expected a "
                "mask head of this package, such as MrcnnExtFCNMaskHead, wrapped or alone."
            )
        self.head = head

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        arguments = super().from_config(cfg, input_shape)
        name = cfg.MRCNN_EXT.MASK_HEAD.WRAPPED
        if name not in ROI_MASK_HEAD_REGISTRY or name == cls.__name__:
            raise ConfigError(
                f"MRCNN_EXT.MASK_HEAD.WRAPPED is '{name}', expected another registered mask head."
            )
        side = arguments["resolution"]
        if not isinstance(input_shape, ShapeSpec):
            input_shape = input_shape[arguments["in_features"][0]]
        shape = ShapeSpec(channels=input_shape.channels, height=side, width=side)
        return {**arguments, "head": ROI_MASK_HEAD_REGISTRY.get(name)(cfg, shape)}

    def _training_losses(
        self, inputs: MaskHeadInputs, instances: list[Instances]
    ) -> dict[str, Tensor]:
        moved = _with_field(instances, "proposal_boxes", inputs.boxes)
        losses = self.head(inputs.pooled, moved)
        losses = {name: loss * self.loss_weight for name, loss in losses.items()}
        if self.iou_predictor is None:
            return losses
        if len(inputs.classes) == 0:
            no_loss = sum(p.sum() for p in self.iou_predictor.parameters()) * 0
            return {**losses, "loss_mask_iou": no_loss}
        probabilities = self._masks_in_training(inputs, instances)
        targets = self.targets(inputs, instances, probabilities)
        score_loss = self._score_loss(self.iou_predictor, inputs, instances, probabilities, targets)
        return {**losses, "loss_mask_iou": score_loss}

    def _predict_masks(self, inputs: MaskHeadInputs, instances: list[Instances]) -> Tensor:
        moved = _with_field(instances, "pred_boxes", inputs.boxes)
        return torch.cat([x.pred_masks for x in self.head(inputs.pooled, moved)])

    @torch.no_grad()
    def _masks_in_training(self, inputs: MaskHeadInputs, instances: list[Instances]) -> Tensor:
        classes = inputs.classes.split([len(x) for x in instances])
        asked = [
            Instances(x.image_size, pred_boxes=boxes, pred_classes=item)
            for x, boxes, item in zip(instances, inputs.boxes, classes)
        ]
        with restore_modes(self.head):
            self.head.eval()
            return torch.cat([x.pred_masks for x in self.head(inputs.pooled, asked)])


def _with_field(instances: list[Instances], field: str, values: list[Boxes]) -> list[Instances]:
    result = []
    for x, value in zip(instances, values):
        fields = {**x.get_fields(), field: value}
        result.append(Instances(x.image_size, **fields))
    return result
