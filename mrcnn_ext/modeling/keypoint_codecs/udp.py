# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The Gaussian codec in the frame of unbiased data processing."""

from __future__ import annotations

from .gaussian import GaussianCodec
from .registry import KEYPOINT_CODEC_REGISTRY

__all__ = ["UDPCodec"]


@KEYPOINT_CODEC_REGISTRY.register()
class UDPCodec(GaussianCodec):
    """:class:`GaussianCodec` whose config has the frame "unit_length" (see :mod:`coordinates`)."""

    name = "udp"

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {**super().from_config(cfg), "frame": "unit_length"}
