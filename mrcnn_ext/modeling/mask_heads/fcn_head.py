# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN's own head, with every switch, and the coupled softmax it was compared with."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from ...errors import ConfigError
from .base import MaskHeadBase, MaskHeadInputs
from .losses import mean_over_masks

__all__ = ["MrcnnExtFCNMaskHead"]


@ROI_MASK_HEAD_REGISTRY.register()
class MrcnnExtFCNMaskHead(MaskHeadBase):
    """Convolutions, one upsampling, one prediction: He et al. 2017, fig. 4.

    With "sigmoid" (the default), same keys, state_dict and results as Detectron2's
    MaskRCNNConvUpsampleHead. With "softmax", classes and background compete for each pixel, as in
    semantic segmentation with an FCN: the coupling that the paper's table 2b finds 5.5 AP behind.
    """

    @configurable
    def __init__(
        self,
        *,
        conv_dims: list[int],
        conv_norm: str = "",
        coupling: str = "sigmoid",
        **kwargs,
    ) -> None:
        """
        Args:
            conv_dims: widths of the 3 x 3 convolutions and, last, of the upsampling.
            conv_norm: normalisation of the convolutions, as for ``detectron2.layers.get_norm``.
            coupling: "sigmoid", each class by itself, or "softmax" over classes and background.
            kwargs: see MaskHeadBase.

        Raises:
            ConfigError: an unknown coupling, or one that other arguments exclude.
        """
        super().__init__(**kwargs)
        if coupling not in ("sigmoid", "softmax"):
            raise ConfigError(
                f"MRCNN_EXT.MASK_HEAD.COUPLING is '{coupling}', expected 'sigmoid' or 'softmax'."
            )
        self.is_coupled = coupling == "softmax"
        if self.is_coupled and self.num_classes == 1:
            raise ConfigError(
                "MRCNN_EXT.MASK_HEAD.COUPLING 'softmax' lets classes compete, of which a head "
                "without classes (CLS_AGNOSTIC_MASK, or a single class) has none."
            )
        if self.is_coupled and self.mask_loss.names != ["bce"]:
            raise ConfigError(
                "MRCNN_EXT.MASK_HEAD.COUPLING 'softmax' has a cross entropy of its own; LOSSES must be "
                "['bce']."
            )
        layers = MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=self.in_channels),
            num_classes=self.num_classes + self.is_coupled,
            conv_dims=conv_dims,
            conv_norm=conv_norm,
        )
        # Under its own names, so that checkpoints of Detectron2's head load.
        for name, layer in layers.named_children():
            self.add_module(name, layer)
        self._layer_names = [name for name, _ in layers.named_children()]

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "conv_dims": [head.CONV_DIM] * (head.NUM_CONV + 1),
            "conv_norm": head.NORM,
            "coupling": cfg.MRCNN_EXT.MASK_HEAD.COUPLING,
        }

    def predict(self, inputs: MaskHeadInputs) -> list[Tensor]:
        x = inputs.pooled
        for name in self._layer_names:
            x = getattr(self, name)(x)
        return [x]

    def losses(
        self, stages: list[Tensor], inputs: MaskHeadInputs, instances: list[Instances]
    ) -> dict[str, Tensor]:
        if not self.is_coupled:
            return super().losses(stages, inputs, instances)
        targets = self.targets(inputs, instances, stages[0])
        background = torch.full_like(inputs.classes, self.num_classes)[:, None, None]
        labels = torch.where(targets, inputs.classes[:, None, None], background)
        weights, logits = self.object_weights(inputs), stages[0].float()
        if weights is None:
            return {"loss_mask": F.cross_entropy(logits, labels)}
        per_mask = F.cross_entropy(logits, labels, reduction="none").mean(dim=(1, 2))
        return {"loss_mask": mean_over_masks(per_mask, weights)}

    def probabilities(self, stages: list[Tensor], inputs: MaskHeadInputs) -> Tensor:
        if not self.is_coupled:
            return super().probabilities(stages, inputs)
        rows = torch.arange(len(inputs.classes), device=inputs.classes.device)
        return stages[0].softmax(dim=1)[rows, inputs.classes][:, None]
