# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Heads of a model for inference: the work that no result depends on is left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    KRCNNConvDeconvUpsampleHead,
    StandardROIHeads,
)
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling.keypoint_codecs import OneHotCodec
from ..modeling.mask_heads import MrcnnExtFCNMaskHead
from ..modeling.mask_heads.base import MaskHeadInputs
from ..modeling.mixins import ModuleMixin, mix_in

__all__ = ["speed_up_heads"]


def speed_up_heads(model: nn.Module) -> None:
    """Give the stock heads of ``model`` a faster forward for inference, in place."""
    for module in list(model.modules()):
        kind = type(module)
        if isinstance(module, StandardROIHeads):
            _sort_box_heads(module, model)
        elif kind is MaskRCNNConvUpsampleHead and _doubles(module):
            mix_in(_MaskHead, module)
        elif kind is MrcnnExtFCNMaskHead and not module.is_coupled and _doubles(module):
            mix_in(_FCNMaskHead, module)
        elif kind is KRCNNConvDeconvUpsampleHead:
            mix_in(_KeypointHead, module)


# ---- Box head ------------------------------------------------------------------------------------


class _Flatten(nn.Module):
    """nn.Flatten of (R, C, h, w), in the order (h, w, C) in which channels_last stores it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def _sort_box_heads(roi_heads: StandardROIHeads, model: nn.Module) -> None:
    """Sort the weights of each first fully connected layer, so that its input need not be sorted."""
    shapes = model.backbone.output_shape()
    pooled = {shapes[name].channels for name in roi_heads.box_in_features if name in shapes}
    heads = roi_heads.box_head
    for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
        if type(head) is FastRCNNConvFCHead and head.fcs and len(pooled) == 1:
            convs = head.conv_norm_relus
            _sort(head, convs[-1].out_channels if convs else next(iter(pooled)))


@torch.no_grad()
def _sort(head: FastRCNNConvFCHead, channels: int) -> None:
    first = head.fcs[0]
    if first.in_features % channels or type(head.flatten) is not nn.Flatten:
        return
    weight = first.weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
    first.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    head.flatten = _Flatten()


# ---- Mask heads ----------------------------------------------------------------------------------


def _doubles(head: nn.Module) -> bool:
    """Whether the upsampling makes 2 x 2 pixels of each, without overlap, and 1 x 1 follows."""
    deconv, predictor = head.deconv, head.predictor
    plain = getattr(predictor, "norm", None) is None and predictor.kernel_size == (1, 1)
    return (
        (deconv.kernel_size, deconv.stride) == ((2, 2), (2, 2))
        and (deconv.padding, deconv.output_padding, deconv.groups) == ((0, 0), (0, 0), 1)
        and plain
    )


def _upsample_and_predict(head: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """The head's upsampling, ReLU and prediction, for the class of each region alone.

    No output pixel of a 2 x 2 upsampling depends on another, so the whole is two products of matrices,
    and the map of all channels at the doubled size is never sorted into its place.

    Args:
        head: with deconv and predictor.
        x: (R, C, h, w).
        classes: (R,) int64.

    Returns:
        (R, 1, 2 h, 2 w) float32 logits.
    """
    number, _, height, width = x.shape
    deconv, predictor = head.deconv, head.predictor
    # Rows (y, x, out channel): what a pixel becomes at each of its four places
    weight = deconv.weight.permute(2, 3, 1, 0).flatten(0, 2)
    bias = None if deconv.bias is None else deconv.bias.repeat(4)
    x = x.permute(0, 2, 3, 1).to(weight.dtype)
    upsampled = F.linear(x, weight, bias).relu_()
    upsampled = upsampled.view(number, height * width * 4, deconv.out_channels)
    if predictor.out_channels == 1:
        classes = torch.zeros_like(classes)
    rows = predictor.weight.flatten(1)[classes]
    logits = torch.bmm(upsampled, rows[:, :, None].to(upsampled.dtype)).float()
    if predictor.bias is not None:
        logits = logits + predictor.bias.float()[classes][:, None, None]
    logits = logits.view(number, height, width, 2, 2).permute(0, 1, 3, 2, 4)
    return logits.reshape(number, 1, 2 * height, 2 * width)


class _MaskHead(ModuleMixin):
    """Detectron2's MaskRCNNConvUpsampleHead."""

    conv_norm_relus: list[nn.Module]

    def forward(self, x: Tensor, instances: list[Instances]) -> list[Instances]:
        for layer in self.conv_norm_relus:
            x = layer(x)
        classes = torch.cat([item.pred_classes for item in instances])
        masks = _upsample_and_predict(self, x, classes).sigmoid()
        for item, part in zip(instances, masks.split([len(item) for item in instances])):
            item.pred_masks = part
        return instances


class _FCNMaskHead(ModuleMixin):
    """This package's MrcnnExtFCNMaskHead: one map, of the region's class."""

    _layer_names: list[str]

    def predict(self, inputs: MaskHeadInputs) -> list[Tensor]:
        x = inputs.pooled
        for name in self._layer_names:
            if name == "deconv":
                return [_upsample_and_predict(self, x, inputs.classes)]
            x = getattr(self, name)(x)
        raise AssertionError("a head without upsampling")


# ---- Keypoint head -------------------------------------------------------------------------------


class _KeypointHead(ModuleMixin):
    """Detectron2's KRCNNConvDeconvUpsampleHead: its peaks, without the resized heatmaps."""

    layers: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor, instances: list[Instances]) -> list[Instances]:
        heatmaps = self.layers(x).float()
        boxes = torch.cat([item.pred_boxes.tensor for item in instances])
        keypoints = OneHotCodec().decode(heatmaps, boxes)
        counts = [len(item) for item in instances]
        for item, points, maps in zip(instances, keypoints.split(counts), heatmaps.split(counts)):
            item.pred_keypoints, item.pred_keypoint_heatmaps = points, maps
        return instances
