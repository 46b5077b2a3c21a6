# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Res5ROIHeads (C4) with the fused pooler, and with keypoints."""

# No "from __future__ import annotations": TorchScript reads Final from the annotations themselves.
from typing import Any, Optional

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_keypoint_head
from detectron2.modeling.roi_heads.roi_heads import (
    Res5ROIHeads,
    select_foreground_proposals,
    select_proposals_with_visible_keypoints,
)
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ...engine.running import check_followed
from ...errors import ConfigError
from ...structures import pack_gt_masks
from ..poolers import fuse_pooler
from ..scripting import inherited
from .output_layers import set_classification_loss

__all__ = ["MrcnnExtRes5ROIHeads"]


@ROI_HEADS_REGISTRY.register()
class MrcnnExtRes5ROIHeads(Res5ROIHeads):
    """Detectron2's Res5ROIHeads (same keys, state_dict and results) with fused RoIAlign and keypoints.

    ``MODEL.KEYPOINT_ON`` gives a keypoint head on the features of res5, beside or without the mask
    head: they are those of the box head in training and of the detected boxes in inference. Its
    heatmaps are as coarse as the masks of C4 (28 x 28 with Detectron2's keypoint head), half of FPN's.
    """

    mask_on: torch.jit.Final[bool]
    keypoint_on: torch.jit.Final[bool]

    _stock_forward = inherited(Res5ROIHeads.forward, "_stock_forward")
    _stock_transform = inherited(Res5ROIHeads._shared_roi_transform, "_stock_transform")
    _stock_given_boxes = inherited(Res5ROIHeads.forward_with_given_boxes, "_stock_given_boxes")

    @configurable
    def __init__(
        self, *, pooler: nn.Module, keypoint_head: Optional[nn.Module] = None, **kwargs
    ) -> None:
        """
        Args:
            pooler: as for Res5ROIHeads; a ROIPooler is replaced by a FusedROIPooler, other modules
                stay.
            keypoint_head: takes res5's (M, C, h, w) features and Instances, as the keypoint heads of
                StandardROIHeads do. None: no keypoints.
            kwargs: as for Res5ROIHeads.
        """
        super().__init__(pooler=fuse_pooler(pooler), **kwargs)
        # What the keypoint head needs of the training step under way, while there is one
        self._step: Optional[dict[str, Any]] = None
        self.keypoint_on = keypoint_head is not None
        if keypoint_head is not None:
            self.keypoint_head = keypoint_head

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        """
        Raises:
            ConfigError: a pooler type that C4 cannot follow, or features that do not fit res5.
        """
        check_followed(cfg)
        _check_poolers(cfg)
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        if len(names) != 1 or names[0] not in input_shape:
            raise ConfigError(
                f"MODEL.ROI_HEADS.IN_FEATURES is {list(names)}, but MrcnnExtRes5ROIHeads takes one "
                f"map (['res4']) of those the backbone returns: {list(input_shape)}."
            )
        without_keypoints = cfg.clone()  # Detectron2's heads refuse them
        without_keypoints.defrost()
        without_keypoints.MODEL.KEYPOINT_ON = False
        ret = super().from_config(without_keypoints, input_shape)
        set_classification_loss(ret, cfg)
        _check_width(ret["res5"], names[0], input_shape[names[0]].channels)
        if cfg.MODEL.KEYPOINT_ON:
            size = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
            for block in ret["res5"].children():
                size = -(-size // getattr(block, "stride", 1))
            channels = ret["box_predictor"].cls_score.in_features
            shape = ShapeSpec(channels=channels, height=size, width=size)
            ret["keypoint_head"] = build_keypoint_head(cfg, shape)
        return ret

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: Optional[list[Instances]] = None,
    ):
        """As Res5ROIHeads.forward; in training with ``loss_keypoint`` if there is a keypoint head."""
        if torch.jit.is_scripting():
            return self._stock_forward(images, features, proposals, targets)
        else:
            return self._forward(images, features, proposals, targets)

    def _forward(self, images, features, proposals, targets):
        if not (self.training and self.keypoint_on):
            return super().forward(images, features, proposals, targets)
        # Detectron2's forward keeps sampled proposals and features to itself; the two methods that it
        # has them from leave them in _step.
        self._step = {}
        try:
            instances, losses = super().forward(images, features, proposals, targets)
            losses.update(self._keypoint_losses(**self._step))
        finally:
            self._step = None
        return instances, losses

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        sampled = super().label_and_sample_proposals(proposals, pack_gt_masks(targets))
        if self._step is not None:
            self._step["proposals"] = sampled
        return sampled

    def _shared_roi_transform(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        if torch.jit.is_scripting():
            return self._stock_transform(features, boxes)
        else:
            x = super()._shared_roi_transform(features, boxes)
            if self._step is not None:
                self._step["features"] = x
            return x

    def _keypoint_losses(self, proposals: list[Instances], features: Tensor) -> dict[str, Tensor]:
        """The loss on foreground proposals with a visible keypoint, as in StandardROIHeads.

        Args:
            proposals: sampled, one Instances for each image.
            features: (M, C, h, w), of the proposals of all images in their order.
        """
        foreground, masks = select_foreground_proposals(proposals, self.num_classes)
        rows = torch.cat(masks).nonzero()[:, 0].split([len(item) for item in foreground])
        for item, index in zip(foreground, rows):
            item.feature_row = index  # is selected along with the proposals
        selected = select_proposals_with_visible_keypoints(foreground)
        index = torch.cat([item.feature_row for item in selected])
        for item in selected:
            item.remove("feature_row")
        return self.keypoint_head(features[index], selected)

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """As Res5ROIHeads.forward_with_given_boxes, with ``pred_keypoints`` besides."""
        if self.keypoint_on:
            assert not self.training, "forward_with_given_boxes is for inference"
            x = self._shared_roi_transform(
                [features[name] for name in self.in_features], [i.pred_boxes for i in instances]
            )
            if self.mask_on:
                instances = self.mask_head(x, instances)
            instances = self.keypoint_head(x, instances)
            return instances
        elif torch.jit.is_scripting():
            return self._stock_given_boxes(features, instances)
        else:
            return super().forward_with_given_boxes(features, instances)


def _check_poolers(cfg) -> None:
    for on, node in (("MASK_ON", "ROI_MASK_HEAD"), ("KEYPOINT_ON", "ROI_KEYPOINT_HEAD")):
        if cfg.MODEL[on] and not cfg.MODEL[node].POOLER_TYPE:
            raise ConfigError(
                f"MODEL.{node}.POOLER_TYPE is '', which hands the head feature maps to pool from, "
                "but C4 heads (MODEL.ROI_HEADS.NAME MrcnnExtRes5ROIHeads) get what res5 made of the "
                "box pooler's output. Leave the key at 'ROIAlignV2' and set "
                "MODEL.ROI_BOX_HEAD.POOLER_TYPE, which all C4 heads share; for a head that pools "
                "itself use an FPN backbone and MODEL.ROI_HEADS.NAME MrcnnExtStandardROIHeads."
            )


def _check_width(res5: nn.Module, name: str, channels: int) -> None:
    first = next(res5.children(), None)
    width = getattr(first, "in_channels", channels)
    if width != channels:
        raise ConfigError(
            f"MODEL.ROI_HEADS.NAME MrcnnExtRes5ROIHeads expects {width} channels (4 x "
            f"MODEL.RESNETS.RES2_OUT_CHANNELS), but '{name}' of the backbone has {channels}."
        )
