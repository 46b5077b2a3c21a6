# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""PointRend: a coarse mask, predicted again at the points where it is uncertain."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from .base import MaskHeadBase, MaskHeadInputs, select_class
from .losses import MASK_LOSSES
from .point_sampling import (
    generate_regular_grid_point_coords,
    get_uncertain_point_coords_on_grid,
    get_uncertain_point_coords_with_randomness,
    point_sample,
    point_sample_fine_grained_features,
)
from .regions import check_names, finest_first

__all__ = ["MrcnnExtPointRendMaskHead"]

_KEY = "MRCNN_EXT.MASK_HEAD.POINT_REND"


@ROI_MASK_HEAD_REGISTRY.register()
class MrcnnExtPointRendMaskHead(MaskHeadBase):
    """PointRend (Kirillov et al. 2020): detail only where the mask is uncertain.

    RoI features give a coarse mask. A small point head predicts single points from the feature maps and
    the coarse logits there. It trains on random points, most of them where the coarse mask is
    uncertain. At inference the mask is upsampled 2x repeatedly, and each time the point head predicts
    the most uncertain cells again.

    The coarse mask has the losses of ``MRCNN_EXT.MASK_HEAD.LOSSES``. Points always have binary cross
    entropy: losses of regions and edges need whole masks.
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
            point_features: maps to sample a point's features from; empty: the finest one.
            point_fc_dims: widths of the point head's layers.
            train_points: points of each RoI in training.
            oversample_ratio, importance_ratio: how to draw them, see
                :func:`get_uncertain_point_coords_with_randomness`.
            output_resolution: side of the mask: ``coarse_resolution`` times a power of 2.
            subdivision_points: most uncertain cells to predict again after each 2x upsampling.
            kwargs: see MaskHeadBase.

        Raises:
            ConfigError: values that do not fit each other.
        """
        super().__init__(**kwargs)
        _check(coarse_resolution, output_resolution, oversample_ratio, importance_ratio)
        _check_positive(train_points=train_points, subdivision_points=subdivision_points)
        shapes = kwargs["input_shape"]
        names = list(point_features) or finest_first(shapes)[:1]
        check_names(shapes, names, f"{_KEY}.IN_FEATURES")
        self.point_features = names
        self.point_scales = [1 / shapes[name].stride for name in names]
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
        """The coarse mask; :meth:`probabilities` refines it."""
        return [self.coarse_head(inputs.pooled)]

    def losses(
        self, stages: list[Tensor], inputs: MaskHeadInputs, instances: list[Instances]
    ) -> dict[str, Tensor]:
        coarse = stages[-1]
        losses = super().losses(stages, inputs, instances)
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                select_class(coarse, inputs.classes)[:, None],
                _uncertainty,
                self.train_points,
                self.oversample_ratio,
                self.importance_ratio,
            )
            labels = self.point_labels(points, inputs, instances)
        logits = self.point_logits(points, coarse, inputs)
        losses["loss_mask_point"] = MASK_LOSSES["bce"](logits, labels, self.object_weights(inputs))
        return losses

    def point_labels(
        self, points: Tensor, inputs: MaskHeadInputs, instances: list[Instances]
    ) -> Tensor:
        """(R, P) truth between 0 and 1 at (R, P, 2) points relative to the boxes.

        Labels are sampled from the ground truth in the boxes at ``output_resolution``. This works for
        bitmasks and polygons, takes no float copy of whole images' masks, and is as fine as the
        predicted mask.
        """
        side = self.output_resolution
        fine = self.targets(inputs, instances, points.new_empty((0, side, side)))
        return point_sample(fine[:, None].to(points.dtype), points)[:, 0]

    def point_logits(self, points: Tensor, coarse: Tensor, inputs: MaskHeadInputs) -> Tensor:
        """(R, P) logits of ``inputs.classes`` at (R, P, 2) points relative to the boxes."""
        maps = [inputs.maps[name] for name in self.point_features]
        fine = point_sample_fine_grained_features(maps, self.point_scales, inputs.boxes, points)
        logits = self.point_head(fine, point_sample(coarse, points))
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
            cells, points = get_uncertain_point_coords_on_grid(
                _uncertainty(masks[:, None]), self.subdivision_points
            )
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
        points = generate_regular_grid_point_coords(len(coarse), side, coarse.device)
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


def _uncertainty(logits: Tensor) -> Tensor:
    return -logits.abs()


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
