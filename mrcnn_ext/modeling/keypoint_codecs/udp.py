# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The Gaussian codec in the frame of unbiased data processing."""

from __future__ import annotations

from detectron2.config import configurable

from .gaussian import GaussianCodec
from .registry import KEYPOINT_CODEC_REGISTRY

__all__ = ["UDPCodec"]


@KEYPOINT_CODEC_REGISTRY.register()
class UDPCodec(GaussianCodec):
    """:class:`GaussianCodec` in the frame "unit_length" (see :mod:`coordinates`)."""

    name = "udp"

    @configurable
    def __init__(self, **kwargs) -> None:
        """
        Args:
            kwargs: see GaussianMapCodec, but for ``frame``.
        """
        super().__init__(frame="unit_length", **kwargs)
