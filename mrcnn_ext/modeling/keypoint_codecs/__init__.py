# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What heads predict for keypoints, apart from the heads."""

from .base import DEFAULT_OKS_SIGMA, KeypointCodec
from .coordinates import FRAMES, image_to_map, map_to_image
from .flow import RealNVP
from .gaussian import GaussianCodec
from .integral import IntegralCodec
from .one_hot import OneHotCodec, fast_heatmaps_to_keypoints
from .peaks import peak_1d, peak_2d
from .residual_likelihood import RLECodec
from .scores import expected_oks_of_axis, expected_oks_of_map
from .simcc import SimCCCodec

__all__ = [
    "DEFAULT_OKS_SIGMA",
    "FRAMES",
    "GaussianCodec",
    "IntegralCodec",
    "KeypointCodec",
    "OneHotCodec",
    "RLECodec",
    "RealNVP",
    "SimCCCodec",
    "expected_oks_of_axis",
    "expected_oks_of_map",
    "fast_heatmaps_to_keypoints",
    "image_to_map",
    "map_to_image",
    "peak_1d",
    "peak_2d",
]
