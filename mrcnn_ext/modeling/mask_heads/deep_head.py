# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Deep-MAC: a deep class-agnostic head, for classes without masks in training."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from .base import MaskHeadBase, MaskHeadInputs
from .blocks import conv, mask_predictor, upsampling

__all__ = ["HOURGLASSES", "Hourglass", "MrcnnExtDeepMaskHead"]

# Layers -> (residual blocks, width in units of the first convolution's) of each size, largest first.
HOURGLASSES = {
    10: ((1, 1), (2, 2)),
    20: ((1, 2, 2), (2, 2, 3)),
    52: ((2, 2, 2, 2, 2, 4), (2, 2, 3, 3, 3, 4)),
}


@ROI_MASK_HEAD_REGISTRY.register()
class MrcnnExtDeepMaskHead(MaskHeadBase):
    """An hourglass network on RoI features, trained on ground-truth boxes (Birodkar et al. 2021).

    Masks of unseen classes need two things, says the paper (Deep-MAC; Deep-MARC in its Mask R-CNN
    form): a deep head, and training on tight boxes only. Masks never depend on the class, whatever
    CLS_AGNOSTIC_MASK is. They are 2 P wide for RoI features of P; the paper's P is 32.
    """

    needs_maps = True

    @configurable
    def __init__(
        self,
        *,
        depth: int = 20,
        conv_dim: int = 64,
        conv_norm: str = "",
        train_on_gt_boxes: bool = True,
        max_boxes_per_image: int = 16,
        num_classes: int = 1,
        **kwargs,
    ) -> None:
        """
        Args:
            depth: layers of the hourglass, one of ``HOURGLASSES``.
            conv_dim: width of the first and last convolution; the hourglass is 2 to 4 times as wide.
            conv_norm: normalisation of the convolutions, as for ``detectron2.layers.get_norm``.
            train_on_gt_boxes: the regions in training are the ground-truth boxes that proposals were
                matched to (``gt_boxes``), not the proposals.
            max_boxes_per_image: with ``train_on_gt_boxes``, how many of them at most; 0: no limit.
            num_classes: not used: neither masks nor learned scores may depend on classes of which some
                are never trained.
            kwargs: see MaskHeadBase; ``pooler`` is required.

        Raises:
            ConfigError: an unknown depth, or RoI features come in where feature maps are needed.
        """
        super().__init__(num_classes=1, **kwargs)
        if depth not in HOURGLASSES:
            raise ConfigError(
                f"MRCNN_EXT.MASK_HEAD.DEEP.DEPTH is {depth}, expected one of {list(HOURGLASSES)}."
            )
        if max_boxes_per_image < 0:
            raise ConfigError(
                f"MRCNN_EXT.MASK_HEAD.DEEP.MAX_BOXES_PER_IMAGE is {max_boxes_per_image}, expected 0 "
                "(no limit) or more."
            )
        self.train_on_gt_boxes = train_on_gt_boxes
        self.max_boxes_per_image = max_boxes_per_image
        blocks, factors = HOURGLASSES[depth]
        widths = [conv_dim * factor for factor in factors]
        self.stem = nn.Sequential(
            conv(self.in_channels, conv_dim, norm=conv_norm),
            ResidualBlock(conv_dim, widths[0], norm=conv_norm),
        )
        self.hourglass = Hourglass(list(blocks), widths, conv_norm)
        self.output_conv = conv(widths[0], conv_dim, norm=conv_norm)
        self.upsampling = upsampling(conv_dim, conv_dim)
        self.predictor = mask_predictor(conv_dim, 1)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> dict:
        node = cfg.MRCNN_EXT.MASK_HEAD.DEEP
        return {
            **super().from_config(cfg, input_shape),
            "depth": node.DEPTH,
            "conv_dim": node.CONV_DIM,
            "conv_norm": cfg.MODEL.ROI_MASK_HEAD.NORM,
            "train_on_gt_boxes": node.TRAIN_ON_GT_BOXES,
            "max_boxes_per_image": node.MAX_BOXES_PER_IMAGE,
        }

    def predict(self, inputs: MaskHeadInputs) -> list[Tensor]:
        """(R, 1, 2 P, 2 P) logits."""
        x = self.output_conv(self.hourglass(self.stem(inputs.pooled)))
        return [self.predictor(self.upsampling(x).relu())]

    def _trainable(self, features, instances: list[Instances]):
        features, instances = super()._trainable(features, instances)
        if self.train_on_gt_boxes:
            instances = [_on_gt_boxes(x, self.max_boxes_per_image) for x in instances]
        return features, instances


class Hourglass(nn.Module):
    """Residual blocks down to half the size and so on, and up again, with a skip at each size.

    Newell et al. 2016, with CornerNet's changes (Law and Deng 2018): strided convolutions down, nearest
    neighbours up, addition where they meet. Any input size will do.
    """

    def __init__(self, blocks: list[int], widths: list[int], norm: str = "") -> None:
        """
        Args:
            blocks: residual blocks on each way, for each size, largest first; two or more sizes.
            widths: channels at each size; the first are those of input and output.
            norm: as for ``detectron2.layers.get_norm``.
        """
        super().__init__()
        outer, inner = widths[:2]
        self.skip = _blocks(outer, outer, blocks[0], norm)
        self.down = _blocks(outer, inner, blocks[0], norm, stride=2)
        if len(blocks) > 2:
            self.inside: nn.Module = Hourglass(blocks[1:], widths[1:], norm)
        else:
            self.inside = _blocks(inner, inner, blocks[1], norm)
        self.up = _blocks(inner, outer, blocks[0], norm)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, h, w) -> (R, C, h, w)"""
        low = self.up(self.inside(self.down(x)))
        # To the size of the skip, not by 2: sizes that are odd come back.
        return self.skip(x) + F.interpolate(low, size=x.shape[-2:], mode="nearest")


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where shapes change."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: str, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, stride=stride, norm=norm)
        self.conv2 = conv(out_channels, out_channels, norm=norm, activation=None)
        # The block starts as its shortcut, so that fifty layers train without normalisation, too.
        last = self.conv2.norm if norm else self.conv2
        nn.init.constant_(last.weight, 0)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv(
                in_channels, out_channels, 1, stride=stride, norm=norm, activation=None
            )

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.shortcut(x)).relu()


def _blocks(
    in_channels: int, out_channels: int, number: int, norm: str, stride: int = 1
) -> nn.Sequential:
    first = ResidualBlock(in_channels, out_channels, norm=norm, stride=stride)
    others = (ResidualBlock(out_channels, out_channels, norm=norm) for _ in range(number - 1))
    return nn.Sequential(first, *others)


def _on_gt_boxes(instances: Instances, limit: int) -> Instances:
    """Foreground of an image with its ground-truth boxes for proposals, at most ``limit`` of them.

    Many proposals share an object. Dropping every duplicate would make the number of RoIs depend on
    values, for which the host would wait for the device; so duplicates are put last, where the limit
    cuts most of them off, and are trained on where there is room.
    """
    if not instances.has("gt_boxes"):
        return instances  # Detectron2 adds no such field where an image has no objects
    if not 0 < limit < len(instances):
        limit = len(instances)
    boxes = instances.gt_boxes.tensor
    same = (boxes[:, None] == boxes[None]).all(dim=2)
    is_repeated = torch.tril(same, diagonal=-1).any(dim=1)
    kept = is_repeated.to(torch.int8).argsort(stable=True)[:limit]
    result = instances[kept]
    result.proposal_boxes = Boxes(result.gt_boxes.tensor)
    return result
