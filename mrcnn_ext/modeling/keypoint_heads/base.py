# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The base of this package's keypoint heads: a head adds its last layers and names its codecs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor, nn

from ...data.skeletons import class_keypoints_from_config
from ...engine.running import check_followed
from ...errors import ConfigError
from ..keypoint_codecs import KeypointCodec, build_keypoint_codec
from .mask_guide import MaskGuide
from .trunk import initialize, trunk_layers

__all__ = ["KeypointHeadBase"]


class KeypointHeadBase(nn.Module):
    """Trunk, loss and results around the last layers of a keypoint head.

    A head adds its layers and implements :meth:`predict`; its codec turns what that returns into a loss
    and keypoints. The head works in every RoI heads class that keeps Detectron2's contract: it takes
    RoI features and instances, and returns ``loss_keypoint`` or instances with ``pred_keypoints``.
    """

    # Kind of the codecs that predict() is for, see KeypointCodec.
    codec_kind = ""
    # Codec to use where MRCNN_EXT.KEYPOINT_HEAD.CODEC names one of another kind.
    default_codec = ""

    @configurable
    def __init__(
        self,
        *,
        input_shape: ShapeSpec,
        num_keypoints: int,
        conv_dims: Sequence[int],
        codec: KeypointCodec,
        conv_norm: str = "",
        light: bool = False,
        mask_guided: bool = False,
        fold_score: bool = False,
        class_keypoints: Tensor | None = None,
        loss_weight: float = 1.0,
        loss_normalizer: float | str = 1.0,
    ) -> None:
        """
        Args:
            input_shape: channels and size of the RoI features.
            num_keypoints: K, of all skeletons together.
            conv_dims: width of each convolution of the trunk.
            codec: makes targets, losses and keypoints.
            conv_norm, light: of the trunk, see :func:`trunk_layers`.
            mask_guided: see :class:`MaskGuide`.
            fold_score: multiply ``scores`` by the mean score of the instance's keypoints, which ranks
                boxes and masks by it, too.
            class_keypoints: (classes, K) bool, which keypoints a class has; None: every class has all.
                Keypoints that the predicted class does not have get score 0 and the middle of the box.
            loss_weight: factor of the loss.
            loss_normalizer: as in Detectron2's heads: "visible", the number of keypoints that count in
                the batch; or a number that is multiplied by the number of images.

        Raises:
            ConfigError: a value does not fit the others.
        """
        super().__init__()
        if loss_normalizer != "visible" and not isinstance(loss_normalizer, (int, float)):
            raise ConfigError(
                f"the loss normalizer of a keypoint head is {loss_normalizer!r}; expected 'visible' or "
                "a number."
            )
        if class_keypoints is not None and class_keypoints.shape[1] != num_keypoints:
            raise ConfigError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {num_keypoints}, but the skeletons of the "
                f"classes have {class_keypoints.shape[1]} keypoints."
            )
        self.num_keypoints = num_keypoints
        self.codec = codec
        self.fold_score = fold_score
        self.loss_weight = loss_weight
        self.loss_normalizer = loss_normalizer
        self.register_buffer("class_keypoints", class_keypoints, persistent=False)
        self.mask_guide = MaskGuide(input_shape.channels) if mask_guided else None
        layers = trunk_layers(input_shape.channels, conv_dims, norm=conv_norm, light=light)
        self.trunk_names = [name for name, _ in layers]
        for name, layer in layers:
            initialize(layer)
            self.add_module(name, layer)  # as in Detectron2's head, whose checkpoints then fit
        self.trunk_channels = conv_dims[-1] if len(conv_dims) else input_shape.channels

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> dict:
        """
        Raises:
            ConfigError: a combination of keys that cannot work.
        """
        check_followed(cfg)
        node, head = cfg.MRCNN_EXT.KEYPOINT_HEAD, cfg.MODEL.ROI_KEYPOINT_HEAD
        if not isinstance(input_shape, ShapeSpec):
            raise ConfigError(
                f"MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE is '', but {cls.__name__} takes pooled features: "
                "set it to 'ROIAlignV2'."
            )
        if node.MASK_GUIDED and not cfg.MODEL.MASK_ON:
            raise ConfigError(
                "MRCNN_EXT.KEYPOINT_HEAD.MASK_GUIDED is True, which needs masks: set MODEL.MASK_ON "
                "to True."
            )
        normalizer: float | str = "visible"
        if not head.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS:
            roi_heads = cfg.MODEL.ROI_HEADS
            regions = roi_heads.BATCH_SIZE_PER_IMAGE * roi_heads.POSITIVE_FRACTION
            normalizer = head.NUM_KEYPOINTS * regions
        return {
            "input_shape": input_shape,
            "num_keypoints": head.NUM_KEYPOINTS,
            "conv_dims": head.CONV_DIMS,
            "codec": cls.codec_from_config(cfg),
            "conv_norm": node.NORM,
            "light": node.LIGHT,
            "mask_guided": node.MASK_GUIDED,
            "fold_score": node.FOLD_SCORE,
            "class_keypoints": class_keypoints_from_config(cfg),
            "loss_weight": head.LOSS_WEIGHT,
            "loss_normalizer": normalizer,
        }

    # ---- What a head implements --------------------------------------------------------------------

    @classmethod
    def codec_from_config(cls, cfg) -> KeypointCodec:
        """The codec that ``MRCNN_EXT.KEYPOINT_HEAD.CODEC`` names; see :func:`build_keypoint_codec`."""
        return build_keypoint_codec(cfg, cls.__name__, cls.codec_kind, cls.default_codec)

    def predict(self, features: Tensor):
        """Predictions in the form that the codec takes, for (R, C, P, P) features of the trunk."""
        raise NotImplementedError

    # ---- Contract with the RoI heads ---------------------------------------------------------------

    def forward(self, features: Tensor, instances: list[Instances]):
        """
        Args:
            features: (R, C, P, P) RoI features.
            instances: N Instances, R in all; with ``proposal_boxes`` and ``gt_keypoints`` in training,
                with ``pred_boxes`` and ``pred_classes`` otherwise.

        Returns:
            ``{"loss_keypoint": scalar}`` in training; otherwise the instances, with ``pred_keypoints``
            (n, K, 3) x, y, score in pixels of the image.
        """
        if self.mask_guide is not None:
            features = self.mask_guide(features, instances)
        predictions = self.predict(self.trunk(features))
        if self.training:
            return {"loss_keypoint": self._loss(predictions, instances) * self.loss_weight}
        self._write_results(predictions, instances)
        return instances

    def trunk(self, features: Tensor) -> Tensor:
        for name in self.trunk_names:
            features = getattr(self, name)(features)
        return features

    def _loss(self, predictions, instances: list[Instances]) -> Tensor:
        boxes = torch.cat([x.proposal_boxes.tensor for x in instances])
        found = [x.gt_keypoints.tensor for x in instances if len(x) > 0]
        keypoints = torch.cat(found) if found else boxes.new_zeros((0, self.num_keypoints, 3))
        if self.loss_normalizer == "visible":
            return self.codec.loss(predictions, boxes, keypoints)
        normalizer = float(self.loss_normalizer) * len(instances)
        return self.codec.loss(predictions, boxes, keypoints, normalizer)

    @torch.no_grad()
    def _write_results(self, predictions, instances: list[Instances]) -> None:
        boxes = torch.cat([x.pred_boxes.tensor for x in instances])
        keypoints = self.codec.decode(predictions, boxes)
        if self.class_keypoints is not None:
            counted = self.class_keypoints[torch.cat([x.pred_classes for x in instances])]
            middle = (
                torch.cat([boxes[:, :2] + boxes[:, 2:], torch.zeros_like(boxes[:, :1])], dim=1) / 2
            )
            keypoints = torch.where(counted[..., None], keypoints, middle[:, None].to(keypoints))
        counts = [len(x) for x in instances]
        for x, item in zip(instances, keypoints.split(counts)):
            # Don't rescale scores if this head already ran on these instances.
            scored_before = x.has("pred_keypoints")
            x.pred_keypoints = item
            if self.fold_score and x.has("scores") and not scored_before:
                x.scores = x.scores * self._mean_score(item, x).to(x.scores.dtype)

    def _mean_score(self, keypoints: Tensor, instances: Instances) -> Tensor:
        """(n,) mean over the keypoints that the class has; 1 where it has none."""
        scores = keypoints[..., 2]
        if self.class_keypoints is None:
            return scores.mean(dim=1)
        counted = self.class_keypoints[instances.pred_classes]
        number = counted.sum(dim=1)
        mean = (scores * counted).sum(dim=1) / number.clamp(min=1)
        return torch.where(number > 0, mean, 1.0)
