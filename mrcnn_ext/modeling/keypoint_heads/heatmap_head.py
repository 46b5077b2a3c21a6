# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN's keypoint head, with a choice of what its heatmaps mean."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.layers import interpolate
from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY
from detectron2.structures import Instances
from torch import Tensor

from ...errors import ConfigError
from ..keypoint_codecs import GaussianCodec, IntegralCodec, KeypointCodec, OneHotCodec
from .base import KeypointHeadBase
from .trunk import initialize, upsampling

__all__ = ["HEATMAP_CODECS", "MrcnnExtHeatmapKeypointHead"]

HEATMAP_CODECS = ("one_hot", "gaussian", "udp", "integral")


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class MrcnnExtHeatmapKeypointHead(KeypointHeadBase):
    """A map of 4 P x 4 P cells for each keypoint (He et al., "Mask R-CNN", sec. 5).

    The layers, their names and their initialisation are those of Detectron2's
    KRCNNConvDeconvUpsampleHead (unless ``conv_norm``, ``light`` or ``mask_guided`` ask for others), so
    that its checkpoints load; with the one-hot codec the losses and keypoints are Detectron2's, too.
    """

    @configurable
    def __init__(self, *, codec: KeypointCodec | None = None, **kwargs) -> None:
        """
        Args:
            codec: takes maps (R, K, S, S); None: OneHotCodec.
            kwargs: see KeypointHeadBase.
        """
        super().__init__(codec=codec or OneHotCodec(), **kwargs)
        self.score_lowres = upsampling(self.trunk_channels, self.num_keypoints)
        initialize(self.score_lowres)

    @classmethod
    def codec_from_config(cls, cfg) -> KeypointCodec:
        """
        Raises:
            ConfigError: no codec of that name.
        """
        node = cfg.MRCNN_EXT.KEYPOINT_HEAD
        common = {"score": node.SCORE, "oks_sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS}
        if node.CODEC == "one_hot":
            return OneHotCodec(**common)
        if node.CODEC in ("gaussian", "udp"):
            frame = "unit_length" if node.CODEC == "udp" else "half_pixel"
            return GaussianCodec(sigma=node.SIGMA, frame=frame, **common)
        if node.CODEC == "integral":
            weight = node.INTEGRAL.REGULARIZATION
            return IntegralCodec(sigma=node.SIGMA, regularization=weight, **common)
        raise ConfigError(
            f"MRCNN_EXT.KEYPOINT_HEAD.CODEC is '{node.CODEC}'; {cls.__name__} has "
            f"{list(HEATMAP_CODECS)}."
        )

    def predict(self, features: Tensor) -> Tensor:
        """(R, K, 4 P, 4 P) logits."""
        maps = self.score_lowres(features)
        return interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)

    def _attach(self, predictions: Tensor, instances: list[Instances]) -> None:
        super()._attach(predictions, instances)
        counts = [len(x) for x in instances]
        for x, maps in zip(instances, predictions.detach().split(counts)):
            x.pred_keypoint_heatmaps = maps
