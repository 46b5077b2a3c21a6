# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN's keypoint head, with a choice of codecs for its heatmaps."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.layers import interpolate
from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY
from detectron2.structures import Instances
from torch import Tensor

from ..keypoint_codecs import KeypointCodec, OneHotCodec, codec_names
from .base import KeypointHeadBase
from .trunk import initialize, upsampling

__all__ = ["HEATMAP_CODECS", "MrcnnExtHeatmapKeypointHead"]

HEATMAP_CODECS = codec_names("heatmap")  # those of this package


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class MrcnnExtHeatmapKeypointHead(KeypointHeadBase):
    """A map of 4 P x 4 P cells for each keypoint (He et al., "Mask R-CNN", sec. 5).

    The layers, their names and their initialisation are those of Detectron2's
    KRCNNConvDeconvUpsampleHead (unless ``conv_norm``, ``light`` or ``mask_guided`` ask for others), so
    that its checkpoints load; with the one-hot codec the losses and keypoints are Detectron2's, too.
    """

    codec_kind = "heatmap"

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

    def predict(self, features: Tensor) -> Tensor:
        """(R, K, 4 P, 4 P) logits."""
        maps = self.score_lowres(features)
        return interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)

    def _write_results(self, predictions: Tensor, instances: list[Instances]) -> None:
        super()._write_results(predictions, instances)
        counts = [len(x) for x in instances]
        for x, maps in zip(instances, predictions.detach().split(counts)):
            x.pred_keypoint_heatmaps = maps
