# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Two lines of bins for each keypoint instead of a heatmap."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY
from torch import Tensor, nn

from ...errors import ConfigError
from ..keypoint_codecs import KeypointCodec, SimCCCodec
from .base import KeypointHeadBase
from .trunk import initialize, upsampling

__all__ = ["MrcnnExtSimCCKeypointHead"]


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class MrcnnExtSimCCKeypointHead(KeypointHeadBase):
    """Keypoints as classifications of columns and rows (Li et al., "SimCC", ECCV 2022).

    After the trunk, ``score_lowres`` makes one map of 2 P x 2 P for each keypoint, as in the heatmap
    head, whose weights can serve as a start. Each map is flattened, and two fully connected layers, the
    same for all keypoints, give the bins of x and of y.
    """

    codec_kind = "bins"
    default_codec = "simcc"

    @configurable
    def __init__(self, *, bins: int = 224, codec: KeypointCodec | None = None, **kwargs) -> None:
        """
        Args:
            bins: of each axis.
            codec: takes lines of bins; None: SimCCCodec.
            kwargs: see KeypointHeadBase; ``input_shape`` must have a height and a width.

        Raises:
            ConfigError: too few bins, or an ``input_shape`` without a size.
        """
        super().__init__(codec=codec or SimCCCodec(), **kwargs)
        shape = kwargs["input_shape"]
        if bins < 5:
            raise ConfigError(f"MRCNN_EXT.KEYPOINT_HEAD.SIMCC.BINS is {bins}, expected 5 or more.")
        if not (shape.height and shape.width):
            raise ConfigError(
                "MrcnnExtSimCCKeypointHead needs the size of RoI features: an input_shape with height "
                "and width."
            )
        self.score_lowres = upsampling(self.trunk_channels, self.num_keypoints)
        initialize(self.score_lowres)
        cells = 4 * shape.height * shape.width
        self.bins_x = nn.Linear(cells, bins)
        self.bins_y = nn.Linear(cells, bins)
        for layer in (self.bins_x, self.bins_y):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        bins = cfg.MRCNN_EXT.KEYPOINT_HEAD.SIMCC.BINS
        return {**super().from_config(cfg, input_shape), "bins": bins}

    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(R, K, bins) logits of x and of y."""
        maps = self.score_lowres(features).flatten(2)
        return self.bins_x(maps), self.bins_y(maps)
