# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Any timm ``features_only`` model as a Detectron2 backbone; ``necks/fpn.py`` adds FPN."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from ...checkpoint.timm_models import create_timm_features
from ...checkpoint.timm_weights import pixel_stats
from ...engine.running import check_followed
from ...errors import ConfigError
from .timm_layers import timm_layers, timm_undecayed
from .timm_norm import convert_norm, freeze_module

__all__ = ["TimmBackbone", "build_timm_backbone", "warn_about_pixel_stats"]

logger = logging.getLogger(__name__)


class TimmBackbone(Backbone):
    """A timm model (Wightman, PyTorch Image Models) that returns feature maps named by stride.

    "res2", "res3", "res4", "res5" have stride 4, 8, 16, 32, as in Detectron2's ResNet; "res1" has
    stride 2 where the model offers it. The timm network is the attribute ``body``, so its keys in a
    checkpoint start with ``backbone.body.`` (C4) or ``backbone.bottom_up.body.`` (FPN).
    """

    @configurable
    def __init__(
        self,
        *,
        model_name: str,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            model_name: name in timm's registry.
            out_features: feature maps to return, of "res1" (stride 2) to "res5" (stride 32).
            norm: "FrozenBN", "BN", "SyncBN" or "GN"; see ``MRCNN_EXT.TIMM.NORM``.
            freeze_at: freeze the layers up to and including stage res``freeze_at``; 1 is the stem,
                0 nothing (Detectron2's ``MODEL.BACKBONE.FREEZE_AT``).
            drop_path_rate: stochastic depth rate.
            grad_checkpointing: recompute activations in the backward pass.
            in_channels: channels of the input image.

        Raises:
            ConfigError: unknown model, feature map or norm, or an option the model lacks.
        """
        super().__init__()
        body = create_timm_features(model_name, drop_path_rate, in_channels)
        index_of = _feature_indices(body, model_name)
        missing = [f for f in out_features if f not in index_of]
        if missing or not out_features:
            raise ConfigError(
                f"MRCNN_EXT.TIMM.OUT_FEATURES is {list(out_features)}, but timm model "
                f"'{model_name}' offers {list(index_of)} (strides "
                f"{[2 ** int(f[3:]) for f in index_of]})."
            )
        out_features = sorted(out_features)
        if index_of[out_features[-1]] != max(index_of.values()):
            # Later stages would compute features that nobody reads, which DDP reports as an error.
            last = index_of[out_features[-1]]
            body = create_timm_features(
                model_name, drop_path_rate, in_channels, tuple(range(last + 1))
            )
        if grad_checkpointing:
            _set_grad_checkpointing(body, model_name)
        self.body = convert_norm(body, norm, model_name)
        self.model_name = model_name

        self._out_features = list(out_features)
        self._index_of = {f: index_of[f] for f in out_features}
        channels, strides = body.feature_info.channels(), body.feature_info.reduction()
        self._out_feature_channels = {f: channels[i] for f, i in self._index_of.items()}
        self._out_feature_strides = {f: strides[i] for f, i in self._index_of.items()}
        # Swin and related models return NHWC; Detectron2 expects NCHW.
        self._channels_last_output = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        self._freeze(freeze_at, index_of)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        check_followed(cfg)
        node = cfg.MRCNN_EXT.TIMM
        return {
            "model_name": node.NAME,
            "out_features": node.OUT_FEATURES,
            "norm": node.NORM,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "drop_path_rate": node.DROP_PATH_RATE,
            "grad_checkpointing": node.GRAD_CHECKPOINTING,
            "in_channels": input_shape.channels,
        }

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of this, so that strides are exact at every level."""
        return max(self._out_feature_strides.values())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: (N, C, H, W) images.

        Returns:
            name -> (N, C_l, ceil(H / stride_l), ceil(W / stride_l)) feature maps.
        """
        outputs = self.body(x)
        features = {f: outputs[i] for f, i in self._index_of.items()}
        if self._channels_last_output:
            features = {f: t.permute(0, 3, 1, 2).contiguous() for f, t in features.items()}
        return features

    def parameter_layers(self) -> dict[str, int]:
        """Names of the parameters -> their layer, from 0 at the image, for layer-wise learning rates.

        Raises:
            ConfigError: timm does not divide this model into layers.
        """
        names = [name for name, _ in self.body.named_parameters()]
        layers = timm_layers(self.model_name, names)
        return {f"body.{name}": layer for name, layer in layers.items()}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm exempts from weight decay, beside norms and biases."""
        names = [name for name, _ in self.body.named_parameters()]
        return {f"body.{name}" for name in timm_undecayed(self.model_name, names)}

    def _freeze(self, freeze_at: int, index_of: dict[str, int]) -> None:
        if freeze_at <= 0:
            return
        for name in _units_up_to(self.body, freeze_at, index_of):
            parent, _, child = name.rpartition(".")
            module = self.body.get_submodule(parent) if parent else self.body
            setattr(module, child, freeze_module(getattr(module, child)))


def _feature_indices(body: nn.Module, model_name: str) -> dict[str, int]:
    strides = body.feature_info.reduction()
    if len(set(strides)) != len(strides):
        raise ConfigError(
            f"MRCNN_EXT.TIMM.NAME '{model_name}' has feature maps of strides {strides}, not one per "
            "level. For a plain ViT use Detectron2's SimpleFeaturePyramid."
        )
    return {f"res{s.bit_length() - 1}": i for i, s in enumerate(strides) if s & (s - 1) == 0}


def _units_up_to(body: nn.Module, freeze_at: int, index_of: dict[str, int]) -> list[str]:
    """Names of the sub-modules, in execution order, up to and including stage ``freeze_at``."""
    ends = {f: body.feature_info.module_name(i).replace(".", "_") for f, i in index_of.items()}
    units = []
    for name, child in body.named_children():
        nested = name in ("blocks", "stages", "layers") and isinstance(child, nn.Sequential)
        units += [f"{name}.{i}" for i in range(len(child))] if nested else [name]
    flat = [u.replace(".", "_") for u in units]
    stage = f"res{freeze_at}"
    if stage in ends and ends[stage] in flat:
        return units[: flat.index(ends[stage]) + 1]
    first = next((e for e in ends.values() if e in flat), None)
    if freeze_at == 1 and first is not None:  # no map of stride 2: the stem is what precedes res2
        return units[: flat.index(first)]
    freezable = [f for f, end in ends.items() if end in flat]
    raise ConfigError(
        f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, but of this timm model only the stages "
        f"{freezable} can be frozen apart from the rest; use 0 to freeze nothing."
    )


def _set_grad_checkpointing(body: nn.Module, model_name: str) -> None:
    if not hasattr(body, "set_grad_checkpointing"):
        raise ConfigError(f"MRCNN_EXT.TIMM.GRAD_CHECKPOINTING: '{model_name}' does not support it.")
    body.set_grad_checkpointing(True)


def warn_about_pixel_stats(cfg, model_name: str) -> None:
    """Warn if MODEL.PIXEL_MEAN and PIXEL_STD are not those that ``timm://`` weights were trained on."""
    from timm.models import get_pretrained_cfg

    if get_pretrained_cfg(model_name) is None or not str(cfg.MODEL.WEIGHTS).startswith("timm://"):
        return
    if cfg.MRCNN_EXT.DATA.BANDS or len(cfg.MODEL.PIXEL_MEAN) != 3:  # statistics of other values
        return
    mean, std = pixel_stats(cfg.MODEL.WEIGHTS)
    if cfg.INPUT.FORMAT == "BGR":
        mean, std = mean[::-1], std[::-1]
    given = list(cfg.MODEL.PIXEL_MEAN) + list(cfg.MODEL.PIXEL_STD)
    if any(abs(a - b) > 0.5 for a, b in zip(given, list(mean) + list(std))):
        logger.warning(
            "%s was trained on other pixel statistics; for INPUT.FORMAT %s set MODEL.PIXEL_MEAN: "
            "%s and MODEL.PIXEL_STD: %s",
            cfg.MODEL.WEIGHTS,
            cfg.INPUT.FORMAT,
            [round(v, 3) for v in mean],
            [round(v, 3) for v in std],
        )


def _check_res5_heads(cfg, backbone: TimmBackbone) -> None:
    """Res5ROIHeads builds its own res5 block, whose input width it takes from another key."""
    if cfg.MODEL.ROI_HEADS.NAME != "Res5ROIHeads":
        return
    (feature,) = cfg.MODEL.ROI_HEADS.IN_FEATURES
    shape = backbone.output_shape().get(feature)
    if shape is None:
        raise ConfigError(
            f"MODEL.ROI_HEADS.IN_FEATURES is ['{feature}'], but MRCNN_EXT.TIMM.OUT_FEATURES is "
            f"{backbone._out_features}: C4 models want ['res4'] in both."
        )
    want = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * 4
    if shape.channels != want:
        hint = (
            f"set MODEL.RESNETS.RES2_OUT_CHANNELS to {shape.channels // 4}"
            if shape.channels % 4 == 0
            else "its width is not a multiple of 4, so use build_timm_fpn_backbone with it"
        )
        raise ConfigError(
            f"MODEL.ROI_HEADS.NAME Res5ROIHeads expects {want} channels (4 x "
            f"MODEL.RESNETS.RES2_OUT_CHANNELS), but '{feature}' of timm model "
            f"'{backbone.model_name}' has {shape.channels}: {hint}."
        )


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape: ShapeSpec) -> TimmBackbone:
    """Build a :class:`TimmBackbone` from ``cfg.MRCNN_EXT.TIMM``, for C4 models or custom necks.

    Raises:
        ConfigError: as :class:`TimmBackbone`, and for ``Res5ROIHeads`` whose res5 block does not fit.
    """
    backbone = TimmBackbone(cfg, input_shape)
    _check_res5_heads(cfg, backbone)
    warn_about_pixel_stats(cfg, backbone.model_name)
    return backbone
