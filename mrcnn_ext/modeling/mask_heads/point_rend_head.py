# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""PointRend: a coarse mask, and a better answer at the points where it is uncertain."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from .base import MaskHeadBase, MaskHeadInputs, select_class
from .point_sampling import (
    grid_points,
    points_in_image,
    sample_maps,
    sample_points,
    uncertain_cells,
    uncertain_points,
)
from .regions import finest_first

__all__ = ["MrcnnExtPointRendMaskHead"]

_KEY = "MRCNN_EXT.MASK_HEAD.POINT_REND"


@ROI_MASK_HEAD_REGISTRY.register()
class MrcnnExtPointRendMaskHead(MaskHeadBase):
    """PointRend (Kirillov et al. 2020): a mask is rendered where it is hard, not everywhere.

    A coarse mask comes from RoI features. A small network of fully connected layers answers for single
    points, from the feature map's value there and the coarse mask's. It learns at random points, most
    of them where the coarse mask is uncertain. In inference, the mask's side is doubled again and
    again, and each time only the most uncertain cells are asked for.

    The coarse mask has the losses of ``MRCNN_EXT.MASK_HEAD.LOSSES``. Points have binary cross entropy
    always: they are not a picture, so that losses of regions and edges mean nothing for them.
    """

    needs_maps = True

    @configurable
    def __init__(
        self,
        *,
        conv_dim: int = 256,
        conv_norm: str = "",
        coarse_fc_dims: Sequence[int] = (1024, 1024),
        coarse_resolution: int = 7,
        point_features: Sequence[str] = (),
        point_fc_dims: Sequence[int] = (256, 256, 256),
        train_points: int = 196,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        output_resolution: int = 112,
        subdivision_points: int = 784,
        **kwargs,
    ) -> None:
        """
        Args:
            conv_dim, conv_norm: of the convolution that halves the RoI features.
            coarse_fc_dims: widths of the fully connected layers of the coarse mask.
            coarse_resolution: side of the coarse mask.
            point_features: maps that a point's features are from; empty: the finest one.
            point_fc_dims: widths of the layers that answer for a point.
            train_points: points of each RoI in training.
            oversample_ratio, importance_ratio: how they are drawn, see :func:`uncertain_points`.
            output_resolution: side of the mask: ``coarse_resolution`` times a power of 2.
            subdivision_points: cells that are asked for after each doubling.
            kwargs: see MaskHeadBase.

        Raises:
            ConfigError: values that do not fit each other.
        """
        super().__init__(**kwargs)
        _check(coarse_resolution, output_resolution, oversample_ratio, importance_ratio)
        _check_positive(train_points=train_points, subdivision_points=subdivision_points)
        shapes = kwargs["input_shape"]
        names = list(point_features) or finest_first(shapes)[:1]
        missing = [name for name in names if name not in shapes]
        if missing:
            raise ConfigError(
                f"{_KEY}.IN_FEATURES names {missing}, but MODEL.ROI_HEADS.IN_FEATURES has "
                f"{list(shapes)}."
            )
        self.point_features = names
        self.point_strides = [shapes[name].stride for name in names]
        self.train_points = train_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.output_resolution = output_resolution
        self.subdivision_points = subdivision_points
        self.coarse_head = _CoarseHead(
            self.in_channels,
            kwargs.get("resolution", 14),
            conv_dim,
            conv_norm,
            coarse_fc_dims,
            (self.num_classes, coarse_resolution, coarse_resolution),
        )
        channels = sum(shapes[name].channels for name in names)
        self.point_head = _PointHead(channels, self.num_classes, point_fc_dims)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node, head = cfg.MRCNN_EXT.MASK_HEAD.POINT_REND, cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "conv_dim": head.CONV_DIM,
            "conv_norm": head.NORM,
            "coarse_fc_dims": [node.COARSE_FC_DIM] * node.COARSE_NUM_FC,
            "coarse_resolution": node.COARSE_RESOLUTION,
            "point_features": node.IN_FEATURES,
            "point_fc_dims": [node.FC_DIM] * node.NUM_FC,
            "train_points": node.TRAIN_POINTS,
            "oversample_ratio": node.OVERSAMPLE_RATIO,
            "importance_ratio": node.IMPORTANCE_RATIO,
            "output_resolution": node.OUTPUT_RESOLUTION,
            "subdivision_points": node.SUBDIVISION_POINTS,
        }

    def predict(self, inputs: MaskHeadInputs) -> list[Tensor]:
        """The coarse mask alone; what is finer is made by :meth:`probabilities`."""
        return [self.coarse_head(inputs.pooled)]

    def losses(
        self, stages: list[Tensor], inputs: MaskHeadInputs, instances: list[Instances]
    ) -> dict[str, Tensor]:
        coarse = stages[-1]
        losses = super().losses(stages, inputs, instances)
        with torch.no_grad():
            points = uncertain_points(
                select_class(coarse, inputs.classes),
                self.train_points,
                self.oversample_ratio,
                self.importance_ratio,
            )
            labels = self.point_labels(points, inputs, instances)
        logits = self.point_logits(points, coarse, inputs)
        losses["loss_mask_point"] = F.binary_cross_entropy_with_logits(logits, labels)
        return losses

    def point_labels(
        self, points: Tensor, inputs: MaskHeadInputs, instances: list[Instances]
    ) -> Tensor:
        """(R, P) truth between 0 and 1 at (R, P, 2) points relative to the boxes.

        It is sampled from the truth inside the boxes at ``output_resolution``. That is one way for
        bitmasks and polygons, needs no float copy of whole images' masks beyond the one the coarse
        loss has anyway, and is as fine as the mask that comes out can be.
        """
        side = self.output_resolution
        fine = self.targets(inputs, instances, points.new_empty((0, side, side)))
        return sample_points(fine[:, None].to(points.dtype), points)[:, 0]

    def point_logits(self, points: Tensor, coarse: Tensor, inputs: MaskHeadInputs) -> Tensor:
        """(R, P) logits of ``inputs.classes`` at (R, P, 2) points relative to the boxes."""
        places = points_in_image(Boxes.cat(inputs.boxes).tensor, points)
        counts = [len(boxes) for boxes in inputs.boxes]
        fine = torch.cat(
            [
                sample_maps(inputs.maps[name], stride, places, counts)
                for name, stride in zip(self.point_features, self.point_strides)
            ],
            dim=1,
        )
        logits = self.point_head(fine, sample_points(coarse, points))
        return select_class(logits, inputs.classes).to(fine.dtype)

    def probabilities(self, stages: list[Tensor], inputs: MaskHeadInputs) -> Tensor:
        """Adaptive subdivision: (R, 1, M, M) with M = ``output_resolution``."""
        coarse = stages[-1]
        if len(inputs.classes) == 0:
            return coarse.new_zeros((0, 1, self.output_resolution, self.output_resolution))
        masks = self._first_masks(coarse, inputs)
        while masks.shape[-1] < self.output_resolution:
            masks = F.interpolate(
                masks[:, None], scale_factor=2.0, mode="bilinear", align_corners=False
            )[:, 0]
            cells, points = uncertain_cells(masks, self.subdivision_points)
            better = self.point_logits(points, coarse, inputs)
            masks = masks.flatten(1).scatter(1, cells, better.to(masks.dtype)).view_as(masks)
        return masks[:, None].sigmoid()

    def _first_masks(self, coarse: Tensor, inputs: MaskHeadInputs) -> Tensor:
        """(R, S, S): all cells of the largest grid with no more than ``subdivision_points`` cells."""
        side = coarse.shape[-1]
        while 2 * side <= self.output_resolution and 4 * side**2 <= self.subdivision_points:
            side *= 2
        if side == coarse.shape[-1]:
            return select_class(coarse, inputs.classes)
        points = grid_points(len(coarse), side, coarse)
        return self.point_logits(points, coarse, inputs).view(-1, side, side)


class _CoarseHead(nn.Module):
    """A convolution of size and stride 2, fully connected layers, all logits of a small mask."""

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        conv_dim: int,
        norm: str,
        fc_dims: Sequence[int],
        output: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.output = output
        self.conv = Conv2d(
            in_channels,
            conv_dim,
            kernel_size=2,
            stride=2,
            bias=not norm,
            norm=get_norm(norm, conv_dim),
            activation=F.relu,
        )
        weight_init.c2_msra_fill(self.conv)
        width = conv_dim * (resolution // 2) ** 2
        self.fcs = nn.ModuleList()
        for fc_dim in fc_dims:
            layer = nn.Linear(width, fc_dim)
            weight_init.c2_xavier_fill(layer)
            self.fcs.append(layer)
            width = fc_dim
        self.predictor = nn.Linear(width, output[0] * output[1] * output[2])
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        x = self.conv(pooled).flatten(1)
        for layer in self.fcs:
            x = layer(x).relu()
        return self.predictor(x).view(-1, *self.output)


class _PointHead(nn.Module):
    """The same fully connected layers for each point, as convolutions of size 1 over (R, C, P).

    Each layer sees the coarse logits of all classes at the point besides its input.
    """

    def __init__(self, channels: int, num_classes: int, fc_dims: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for width in fc_dims:
            layer = nn.Conv1d(channels + num_classes, width, 1)
            weight_init.c2_msra_fill(layer)
            self.layers.append(layer)
            channels = width
        self.predictor = nn.Conv1d(channels + num_classes, num_classes, 1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        x = fine
        for layer in self.layers:
            x = layer(torch.cat([x, coarse.to(x.dtype)], dim=1)).relu()
        return self.predictor(torch.cat([x, coarse.to(x.dtype)], dim=1))


def _check(coarse: int, output: int, oversample: float, importance: float) -> None:
    doublings = output // coarse if coarse > 0 else 0
    if doublings < 1 or coarse * doublings != output or doublings & (doublings - 1):
        raise ConfigError(
            f"{_KEY}.OUTPUT_RESOLUTION is {output}, expected COARSE_RESOLUTION ({coarse}) times a "
            "power of 2."
        )
    if oversample < 1:
        raise ConfigError(f"{_KEY}.OVERSAMPLE_RATIO is {oversample}, expected 1 or more.")
    if not 0 <= importance <= 1:
        raise ConfigError(f"{_KEY}.IMPORTANCE_RATIO is {importance}, expected 0 to 1.")


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{_KEY}.{name.upper()} is {value}, expected 1 or more.")
