# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A network for each object: CondInst's dynamic mask head, on RoIs."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ...config.aliases import first_set
from .base import MaskHeadBase, MaskHeadInputs
from .blocks import common_channels, conv, conv_stack
from .regions import build_region_pooler

__all__ = ["MrcnnExtDynamicMaskHead", "dynamic_mask_network", "num_dynamic_parameters"]

_KEY = "MRCNN_EXT.MASK_HEAD.DYNAMIC"


@ROI_MASK_HEAD_REGISTRY.register()
class MrcnnExtDynamicMaskHead(MaskHeadBase):
    """Each RoI gets the weights of a tiny network that finds its mask in shared features.

    After CondInst (Tian et al. 2020, sec. 3), whose detector is replaced by RoIs: a controller looks at
    the RoI features and predicts the weights of three 1 x 1 convolutions, which run on few channels
    that a small branch makes once for the whole image, and on the position in the RoI. A mask does not
    depend on the class; CLS_AGNOSTIC_MASK matters to the learned score alone.
    """

    needs_maps = True

    @configurable
    def __init__(
        self,
        *,
        conv_dim: int = 256,
        num_conv: int = 2,
        conv_norm: str = "",
        map_pooler: nn.Module,
        map_features: Sequence[str],
        map_channels: int = 8,
        map_conv_dim: int = 128,
        map_num_conv: int = 4,
        hidden_channels: int = 8,
        **kwargs,
    ) -> None:
        """
        Args:
            conv_dim, num_conv: 3 x 3 convolutions of the controller, before its average pooling.
            conv_norm: normalisation of all convolutions, as for ``detectron2.layers.get_norm``.
            map_pooler: pools the shared features, which have the stride of the first of
                ``map_features``; its output size is the size of the masks.
            map_features: names of the maps that shared features are made from, finest first; they are
                as wide as those of ``pooler``.
            map_channels: shared features for the tiny networks.
            map_conv_dim, map_num_conv: 3 x 3 convolutions of the branch that makes them.
            hidden_channels: width of the tiny networks.
            kwargs: see MaskHeadBase; ``pooler`` is required.

        Raises:
            ConfigError: RoI features come in where feature maps are needed.
        """
        super().__init__(**kwargs)
        self.map_pooler = map_pooler
        self.map_features = list(map_features)
        self.hidden_channels = hidden_channels

        self.map_laterals = nn.ModuleList(
            conv(self.in_channels, map_conv_dim, norm=conv_norm) for _ in self.map_features
        )
        self.map_branch = nn.Sequential(
            conv_stack(map_conv_dim, map_conv_dim, map_num_conv, conv_norm),
            conv(map_conv_dim, map_channels, 1, activation=None),
        )
        self.controller_convs = conv_stack(self.in_channels, conv_dim, num_conv, conv_norm)
        self.controller = nn.Linear(
            conv_dim if num_conv else self.in_channels,
            num_dynamic_parameters(map_channels, hidden_channels),
        )
        # A linear layer of few channels: the others' initialisation, for ReLUs, would make them huge.
        weight_init.c2_xavier_fill(self.map_branch[-1])
        nn.init.normal_(self.controller.weight, std=0.01)
        with torch.no_grad():
            self.controller.bias.copy_(_first_network(map_channels, hidden_channels))

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> dict:
        node, head = cfg.MRCNN_EXT.MASK_HEAD.DYNAMIC, cfg.MODEL.ROI_MASK_HEAD
        arguments = {
            **super().from_config(cfg, input_shape),
            "conv_dim": head.CONV_DIM,
            "num_conv": head.NUM_CONV,
            "conv_norm": head.NORM,
            "map_pooler": None,
            "map_features": (),
            "map_channels": node.MAP_CHANNELS,
            "map_conv_dim": node.MAP_CONV_DIM,
            "map_num_conv": node.MAP_NUM_CONV,
            "hidden_channels": node.HIDDEN_CHANNELS,
        }
        if isinstance(input_shape, ShapeSpec):
            return arguments  # which the constructor refuses, with the reason
        pooled = arguments["in_features"]
        key, names = first_set(cfg, f"{_KEY}.IN_FEATURES", f"{_KEY}.MAP_LEVELS")
        names = names or list(pooled)
        common_channels(input_shape, [*names, *pooled], key)
        names.sort(key=lambda name: input_shape[name].stride)
        arguments["map_features"] = names
        arguments["map_pooler"] = build_region_pooler(
            input_shape, names[:1], node.MASK_RESOLUTION, head.POOLER_SAMPLING_RATIO
        )
        return arguments

    def predict(self, inputs: MaskHeadInputs) -> list[Tensor]:
        """(R, 1, M, M) logits, where M is the output size of ``map_pooler``."""
        shared = self.map_pooler([self.shared_features(inputs.maps)], inputs.boxes)
        shared = torch.cat([shared, _positions(shared)], dim=1)
        weights = self.controller(self.controller_convs(inputs.pooled).mean(dim=(2, 3)))
        return [dynamic_mask_network(shared, weights, self.hidden_channels)]

    def shared_features(self, maps: dict[str, Tensor]) -> Tensor:
        """(N, map_channels, H, W) at the size of the finest map: what all masks are made from."""
        total = None
        for name, lateral in zip(self.map_features, self.map_laterals):
            x = lateral(maps[name])
            if total is None:
                total = x
            else:
                total = total + F.interpolate(
                    x, size=total.shape[-2:], mode="bilinear", align_corners=False
                )
        return self.map_branch(total)


def num_dynamic_parameters(map_channels: int, hidden_channels: int) -> int:
    """Weights and biases of one tiny network; 169 for 8 and 8 channels, as in the paper."""
    return sum(a * b + b for a, b in _layer_sizes(map_channels + 2, hidden_channels))


def _first_network(map_channels: int, hidden_channels: int) -> Tensor:
    """Parameters that every RoI starts from: random hidden layers, and 0 for the prediction.

    With biases of 0, as in CondInst, masks would be products of three numbers near 0: a slow start.
    """
    parts = []
    for inner, outer in _layer_sizes(map_channels + 2, hidden_channels):
        parts += [torch.randn(inner * outer) * (2 / inner) ** 0.5, torch.zeros(outer)]
    parts[-2].zero_()
    return torch.cat(parts)


def dynamic_mask_network(features: Tensor, parameters: Tensor, hidden_channels: int) -> Tensor:
    """Three 1 x 1 convolutions, ReLU between them, with weights of its own for each RoI.

    All RoIs run in one batched matrix product for each layer.

    Args:
        features: (R, C, M, M), the positions among them.
        parameters: (R, D): for each layer its weights (out, in), then its biases.
        hidden_channels: width between the layers.

    Returns:
        (R, 1, M, M) logits.
    """
    x = features.flatten(2)
    sizes = _layer_sizes(features.shape[1], hidden_channels)
    parts = parameters.split([n for a, b in sizes for n in (a * b, b)], dim=1)
    for index, (inner, outer) in enumerate(sizes):
        weight = parts[2 * index].unflatten(1, (outer, inner))
        x = torch.baddbmm(parts[2 * index + 1][:, :, None], weight, x)
        if index < len(sizes) - 1:
            x = x.relu()
    return x.unflatten(2, features.shape[-2:])


def _layer_sizes(in_channels: int, hidden_channels: int) -> list[tuple[int, int]]:
    return [
        (in_channels, hidden_channels),
        (hidden_channels, hidden_channels),
        (hidden_channels, 1),
    ]


def _positions(like: Tensor) -> Tensor:
    """(R, 2, M, M): x and y of pixel centres, from -1 to 1 over the RoI.

    CondInst has the distance from the object's centre in units of its level's size; the RoI gives both.
    """
    rois, _, height, width = like.shape
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) * (2 / height) - 1
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) * (2 / width) - 1
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return grid.expand(rois, 2, height, width)
