# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""RefineMask: stages that upsample a mask 2x each and correct it along its boundary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ...config.aliases import first_set
from ...errors import ConfigError
from .base import MaskHeadBase, MaskHeadInputs, select_class
from .blocks import conv, mask_predictor
from .losses import boundary_band
from .regions import check_names, finest_first, pooled_maps

__all__ = ["MrcnnExtRefineMaskHead", "band_loss", "merge_stages", "refined_band"]

_KEY = "MRCNN_EXT.MASK_HEAD.REFINE_MASK"
_DENSE_STAGES = 2  # the first ones, whose masks are trained and used everywhere
_DILATIONS = (1, 3, 5)
# Narrower stages, which the paper does not have, start with few live ReLUs or none.
_NARROWEST = 16
_TRAIN_RADIUS, _TEST_RADIUS = 2, 1  # of the boundary, in pixels of the stage before


@ROI_MASK_HEAD_REGISTRY.register()
class MrcnnExtRefineMaskHead(MaskHeadBase):
    """RefineMask (Zhang et al. 2021): masks of 14, 28, 56 and 112, the later ones at boundaries only.

    A semantic branch of convolutions over the finest feature map, shared by all RoIs of an image, adds
    detail. Each stage predicts a mask, fuses its features with that detail and the mask through three
    dilated convolutions, and upsamples 2x with half the channels. The first two masks are trained and
    used whole, a later one only near the boundary of the mask so far; its other pixels are upsampled
    from the stage before.

    The first two masks have the losses of ``MRCNN_EXT.MASK_HEAD.LOSSES``, the later ones always binary
    cross entropy in their band. As in the authors' faster variant, the branch has no loss of its own,
    and the last mask is predicted before the last upsampling.
    """

    needs_maps = True

    @configurable
    def __init__(
        self,
        *,
        conv_dims: Sequence[int] = (256, 256),
        conv_norm: str = "",
        semantic_feature: str = "",
        semantic_num_conv: int = 4,
        stage_weights: Sequence[float] = (0.5, 0.75, 0.75, 1.0),
        **kwargs,
    ) -> None:
        """
        Args:
            conv_dims: widths of the 3 x 3 convolutions before the first stage. The last is also the
                width of the branch and of the first stage; each further stage has half, but no less
                than 16.
            conv_norm: normalisation of all 3 x 3 convolutions, as for ``detectron2.layers.get_norm``.
            semantic_feature: map that the branch works on; "": the finest one.
            semantic_num_conv: its number of convolutions.
            stage_weights: factor of the loss of each mask, so that there are as many masks.
            kwargs: see MaskHeadBase.

        Raises:
            ConfigError: values that do not fit each other.
        """
        super().__init__(**kwargs)
        shapes = kwargs["input_shape"]
        name = semantic_feature or finest_first(shapes)[0]
        key = f"{_KEY}.IN_FEATURES"
        check_names(shapes, [name], key)
        _check(conv_dims, stage_weights)
        self.stage_weights = list(stage_weights)
        self.semantic_feature = name
        self.resolution = kwargs.get("resolution", 14)
        dim = conv_dims[-1]
        self.instance_convs = _convs(self.in_channels, conv_dims, conv_norm)
        self.semantic_convs = _convs(shapes[name].channels, [dim] * semantic_num_conv, conv_norm)
        semantic_dim = dim if semantic_num_conv else shapes[name].channels
        self.stages = nn.ModuleList()
        self.poolers = nn.ModuleList()
        side = self.resolution
        for _ in self.stage_weights[1:]:
            narrower = max(dim // 2, _NARROWEST)
            self.stages.append(_Stage(dim, narrower, semantic_dim, self.num_classes, conv_norm))
            _, pooler = pooled_maps(shapes, [name], side, key=key, sampling_ratio=1)
            self.poolers.append(pooler)
            dim, side = narrower, side * 2
        self.predictor = mask_predictor(dim, 1)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node, head = cfg.MRCNN_EXT.MASK_HEAD.REFINE_MASK, cfg.MODEL.ROI_MASK_HEAD
        key, names = first_set(cfg, f"{_KEY}.IN_FEATURES", f"{_KEY}.SEMANTIC_FEATURE")
        if len(names) > 1:
            raise ConfigError(f"{key} is {names}; expected one map, or none for the finest.")
        arguments = super().from_config(cfg, input_shape)
        check_names(input_shape, names, key)
        return {
            **arguments,
            "conv_dims": [head.CONV_DIM] * head.NUM_CONV,
            "conv_norm": head.NORM,
            "semantic_feature": "".join(names),
            "semantic_num_conv": node.SEMANTIC_NUM_CONV,
            "stage_weights": node.STAGE_WEIGHTS,
        }

    def predict(self, inputs: MaskHeadInputs) -> list[Tensor]:
        """(R, classes or 1, M_i, M_i) of each stage; the last stage's are of any class."""
        if len(inputs.classes) == 0:
            return self._no_masks(inputs)
        x = self.instance_convs(inputs.pooled)
        semantic = self.semantic_convs(inputs.maps[self.semantic_feature])
        masks = []
        for stage, pooler in zip(self.stages, self.poolers):
            # Narrowed before it is pooled: the map has fewer pixels than all RoIs together.
            detail = pooler([stage.semantic(semantic).relu()], inputs.boxes)
            mask, x = stage(x, detail, inputs.classes)
            masks.append(mask)
            if stage is not self.stages[-1]:
                x = _double(x)
        return [*masks, _double(self.predictor(x))]

    def losses(
        self, stages: list[Tensor], inputs: MaskHeadInputs, instances: list[Instances]
    ) -> dict[str, Tensor]:
        masks = [select_class(stage, inputs.classes).float() for stage in stages]
        targets = [self.targets(inputs, instances, mask) for mask in masks]
        by_class = self.object_weights(inputs)
        terms = [
            weight * self.mask_loss(mask, target, by_class)
            for weight, mask, target in zip(self.stage_weights[:_DENSE_STAGES], masks, targets)
        ]
        bands = [
            self.stage_weights[i]
            * band_loss(
                masks[i],
                targets[i],
                refined_band([masks[i - 1] >= 0, targets[i - 1]], _TRAIN_RADIUS),
                by_class,
            )
            for i in range(_DENSE_STAGES, len(masks))
        ]
        return {"loss_mask": sum(terms), "loss_mask_boundary": sum(bands)}

    def probabilities(self, stages: list[Tensor], inputs: MaskHeadInputs) -> Tensor:
        masks = [select_class(stage, inputs.classes).float().sigmoid() for stage in stages]
        return merge_stages(masks)[:, None]

    def _no_masks(self, inputs: MaskHeadInputs) -> list[Tensor]:
        """Without RoIs, the branch over the whole image need not run."""
        sides = [self.resolution * 2**i for i in range(len(self.stage_weights))]
        return [inputs.pooled.new_zeros((0, 1, side, side)) for side in sides]


def merge_stages(masks: list[Tensor]) -> Tensor:
    """The mask so far, enlarged, with each later stage's pixels near its boundary.

    Args:
        masks: probabilities (R, M_i, M_i), each M_i twice the one before. The second is taken whole.

    Returns:
        (R, M, M) of the last stage's side.
    """
    merged = masks[_DENSE_STAGES - 1]
    for mask in masks[_DENSE_STAGES:]:
        band = refined_band([merged >= 0.5], _TEST_RADIUS)
        merged = torch.where(band, mask, _double(merged[:, None])[:, 0])
    return merged


def refined_band(masks: list[Tensor], radius: int) -> Tensor:
    """(R, 2 M, 2 M) bool: where one of some (R, M, M) bool masks has its boundary within ``radius``."""
    bands = [boundary_band(mask.float(), radius) > 0 for mask in masks]
    band = torch.stack(bands).any(dim=0)
    return band.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)


def band_loss(
    logits: Tensor, targets: Tensor, band: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Binary cross entropy, the mean over the pixels of the band; 0 if it has none.

    Args:
        logits: (R, M, M).
        targets, band: (R, M, M) bool.
        weights: (R,), factors of the terms of each mask; None: all the same.
    """
    losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    counted = band.to(logits.dtype)
    terms = losses * counted if weights is None else losses * counted * weights[:, None, None]
    return terms.sum() / counted.sum().clamp(min=1)


class _Stage(nn.Module):
    """A mask from the features, and the features with detail, mask and surroundings joined."""

    def __init__(
        self, dim: int, narrower: int, semantic_dim: int, num_classes: int, norm: str
    ) -> None:
        super().__init__()
        self.predictor = mask_predictor(dim, num_classes)
        self.semantic = conv(semantic_dim, dim, 1, activation=None)
        self.join = conv(2 * dim + 1, dim, 1, activation=None)
        self.around = nn.ModuleList(
            conv(dim, dim, dilation=d, norm=norm, activation=None) for d in _DILATIONS
        )
        self.fuse = conv(dim, dim, 1, activation=None)
        self.reduce = conv(dim, narrower - 1, 1, activation=None)

    def forward(self, x: Tensor, detail: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            x, detail: (R, dim, S, S).
            classes: (R,) int64.

        Returns:
            logits (R, classes or 1, S, S), and features (R, narrower, S, S).
        """
        logits = self.predictor(x)
        mask = select_class(logits, classes)[:, None].sigmoid()
        x = self.join(torch.cat([x, detail, mask], dim=1)).relu()
        x = sum(layer(x).relu() for layer in self.around)
        x = self.fuse(x).relu()
        return logits, torch.cat([self.reduce(x).relu(), mask], dim=1)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _convs(channels: int, dims: Sequence[int], norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for dim in dims:
        layers += [conv(channels, dim, norm=norm, activation=None), nn.ReLU()]
        channels = dim
    return nn.Sequential(*layers)


def _check(conv_dims: Sequence[int], stage_weights: Sequence[float]) -> None:
    if len(stage_weights) < _DENSE_STAGES + 1:
        raise ConfigError(
            f"{_KEY}.STAGE_WEIGHTS is {list(stage_weights)}, expected a weight for each of "
            f"{_DENSE_STAGES + 1} masks or more."
        )
    if not conv_dims:
        raise ConfigError(
            "RefineMask needs a convolution before its first stage, but MODEL.ROI_MASK_HEAD.NUM_CONV "
            "is 0."
        )
