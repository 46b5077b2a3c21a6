# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Codecs: how keypoints become targets, losses and predictions, apart from the heads' layers."""

from ..._moved import moved_names
from .base import DEFAULT_OKS_SIGMA, KeypointCodec
from .coordinates import FRAMES, image_to_map, map_to_image
from .flow import RealNVP
from .gaussian import GaussianCodec
from .heatmap import GaussianMapCodec, HeatmapCodec
from .integral import IntegralCodec
from .one_hot import OneHotCodec, fast_heatmaps_to_keypoints
from .peaks import peak_1d, peak_2d
from .registry import KEYPOINT_CODEC_REGISTRY, build_keypoint_codec, codec_names
from .residual_likelihood import ResidualLikelihoodCodec
from .scores import expected_oks_of_axis, expected_oks_of_map
from .simcc import SimCCCodec
from .udp import UDPCodec

__all__ = [
    "DEFAULT_OKS_SIGMA",
    "FRAMES",
    "KEYPOINT_CODEC_REGISTRY",
    "GaussianCodec",
    "GaussianMapCodec",
    "HeatmapCodec",
    "IntegralCodec",
    "KeypointCodec",
    "OneHotCodec",
    "RealNVP",
    "ResidualLikelihoodCodec",
    "SimCCCodec",
    "UDPCodec",
    "build_keypoint_codec",
    "codec_names",
    "expected_oks_of_axis",
    "expected_oks_of_map",
    "fast_heatmaps_to_keypoints",
    "image_to_map",
    "map_to_image",
    "peak_1d",
    "peak_2d",
]

__getattr__ = moved_names(
    __name__, {"RLECodec": f"{__name__}.residual_likelihood:ResidualLikelihoodCodec"}
)
