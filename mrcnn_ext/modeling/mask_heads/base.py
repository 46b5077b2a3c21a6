# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What all mask heads of this package share, so that a head is its layers and the rest are switches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...config.aliases import first_set
from ...errors import ConfigError
from ...structures import mask_targets
from .losses import MaskLoss
from .regions import (
    IN_FEATURES_KEYS,
    build_region_pooler,
    crop_context,
    enlarge_boxes,
    region_features,
)
from .scoring import MASK_SCORES, MaskIoUPredictor, free_mask_quality, mask_iou_target

__all__ = ["MaskHeadBase", "MaskHeadInputs", "select_class"]


@dataclass
class MaskHeadInputs:
    """What a head sees of the R RoIs of a batch, image by image.

    Attributes:
        pooled: (R, C, P, P) RoI features.
        maps: feature maps (N, C, H_l, W_l) by name; empty where RoI heads pool for the head.
        boxes: N Boxes, R in all: the regions that masks cover, in pixels of the image.
        classes: (R,) int64; of the ground truth in training, predicted otherwise.
    """

    pooled: Tensor
    maps: dict[str, Tensor]
    boxes: list[Boxes]
    classes: Tensor


class MaskHeadBase(nn.Module):
    """Losses, targets, scores and regions around the layers of a mask head.

    A head implements :meth:`predict`; one with losses of its own also :meth:`losses`, one whose masks
    are not the sigmoid of its last logits :meth:`probabilities`. It can be used by every RoI heads
    class that keeps Detectron2's contract: RoI features (or, with
    ``MODEL.ROI_MASK_HEAD.POOLER_TYPE: ""``, the feature maps) and instances come in; losses, or
    instances with ``pred_masks``, go out.
    """

    # Whether the head needs the feature maps themselves. Then RoI heads must not pool for it.
    needs_maps = False

    @configurable
    def __init__(
        self,
        *,
        input_shape: ShapeSpec | dict[str, ShapeSpec],
        num_classes: int,
        pooler: nn.Module | None = None,
        in_features: Sequence[str] = (),
        resolution: int = 14,
        context: float = 1.0,
        losses: Sequence[str] = ("bce",),
        loss_weights: Sequence[float] = (1.0,),
        score: str = "",
        score_loss_weight: float = 1.0,
        score_conv_dim: int = 256,
        score_fc_dim: int = 1024,
        fold_score: bool = False,
        train_classes: Sequence[int] = (),
        loss_weight: float = 1.0,
        vis_period: int = 0,
    ) -> None:
        """
        Args:
            input_shape: of the RoI features, or of each feature map if the head is to pool itself.
            num_classes: foreground classes; 1 for masks that do not depend on the class.
            pooler: pools from the maps ``in_features``; None if RoI features come in.
            in_features: names of the maps for ``pooler``, finest first.
            resolution: side P of the RoI features.
            context: masks are predicted for boxes enlarged by this factor and cut back afterwards, so
                that the head sees what surrounds an object. Needs ``pooler``.
            losses, loss_weights: see :class:`MaskLoss`.
            score: how ``mask_scores`` are made, one of ``MASK_SCORES``; "": not at all.
            score_loss_weight, score_conv_dim, score_fc_dim: of :class:`MaskIoUPredictor`.
            fold_score: multiply ``scores`` by the mask's quality, which also re-ranks boxes.
            train_classes: only ground truth of these classes trains the head; empty: all classes.
            loss_weight: factor of all losses of the mask itself.
            vis_period: iterations between pictures in the event storage; 0: none.

        Raises:
            ConfigError: arguments that exclude each other.
        """
        super().__init__()
        if pooler is None and (self.needs_maps or context != 1):
            raise ConfigError(
                f"{type(self).__name__} (or its context of {context}) pools feature maps itself: set "
                'MODEL.ROI_MASK_HEAD.POOLER_TYPE to "". That works in Standard and Cascade ROI heads; '
                "Res5 heads (C4) cannot give feature maps to a mask head."
            )
        if context < 1:
            raise ConfigError(f"the context of a mask head is {context}, expected 1 or more.")
        if score and score not in MASK_SCORES:
            raise ConfigError(
                f"the mask score is '{score}'; expected one of {list(MASK_SCORES)}, or ''."
            )
        self.num_classes = num_classes
        self.pooler = pooler
        self.in_features = list(in_features)
        self.context = context
        self.mask_loss = MaskLoss(losses, loss_weights)
        self.score = score
        self.score_loss_weight = score_loss_weight
        self.fold_score = fold_score
        self.train_classes = list(train_classes)
        self.loss_weight = loss_weight
        self.vis_period = vis_period
        self.in_channels = _in_channels(input_shape, self.in_features)
        self.iou_predictor = None
        if score == "mask_iou":
            self.iou_predictor = MaskIoUPredictor(
                in_channels=self.in_channels,
                resolution=resolution,
                num_classes=num_classes,
                conv_dim=score_conv_dim,
                fc_dim=score_fc_dim,
            )

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> dict:
        node, head = cfg.MRCNN_EXT.MASK_HEAD, cfg.MODEL.ROI_MASK_HEAD
        arguments = {
            "input_shape": input_shape,
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "context": node.CONTEXT,
            "losses": node.LOSSES,
            "loss_weights": node.LOSS_WEIGHTS,
            "score": node.SCORE,
            "score_loss_weight": node.SCORE_LOSS_WEIGHT,
            "score_conv_dim": node.SCORE_CONV_DIM,
            "score_fc_dim": node.SCORE_FC_DIM,
            "fold_score": node.FOLD_SCORE,
            "train_classes": node.TRAIN_CLASSES,
            "vis_period": cfg.VIS_PERIOD,
        }
        if isinstance(input_shape, ShapeSpec):
            key, names = first_set(cfg, *IN_FEATURES_KEYS)
            if names:
                raise ConfigError(
                    f"{key} is {names}, but RoI heads pool for the mask head: set "
                    'MODEL.ROI_MASK_HEAD.POOLER_TYPE to "".'
                )
            return {**arguments, "resolution": input_shape.width or head.POOLER_RESOLUTION}
        names = region_features(cfg, input_shape)
        arguments["in_features"] = names
        arguments["resolution"] = head.POOLER_RESOLUTION
        arguments["pooler"] = build_region_pooler(
            input_shape, names, head.POOLER_RESOLUTION, head.POOLER_SAMPLING_RATIO
        )
        return arguments

    # ---- What a head implements --------------------------------------------------------------------

    def predict(self, inputs: MaskHeadInputs) -> list[Tensor]:
        """Logits of each stage, (R, classes or 1, M_i, M_i); the last are the result. R may be 0."""
        raise NotImplementedError

    def losses(
        self, stages: list[Tensor], inputs: MaskHeadInputs, instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Losses of the masks, before ``loss_weight``. The default looks at the last stage only."""
        logits = select_class(stages[-1], inputs.classes)
        return {"loss_mask": self.mask_loss(logits, self.targets(inputs, instances, logits))}

    def probabilities(self, stages: list[Tensor], inputs: MaskHeadInputs) -> Tensor:
        """(R, 1, M, M) probabilities of the masks of ``inputs.classes``."""
        return select_class(stages[-1], inputs.classes)[:, None].sigmoid()

    # ---- Contract with the RoI heads ---------------------------------------------------------------

    def forward(self, features: Tensor | dict[str, Tensor], instances: list[Instances]):
        """
        Args:
            features: (R, C, P, P) RoI features, or feature maps by name.
            instances: N Instances; foreground with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``
                in training, with ``pred_boxes`` and ``pred_classes`` otherwise.

        Returns:
            a dict of losses in training; otherwise the instances, with ``pred_masks`` (n, 1, M, M)
            probabilities and, if the head scores masks, ``mask_scores`` (n,).
        """
        if self.training:
            features, instances = self._trainable(features, instances)
            inputs = self._inputs(features, instances, "proposal_boxes", "gt_classes")
            return self._train(inputs, instances)
        inputs = self._inputs(features, instances, "pred_boxes", "pred_classes")
        self._attach(self._test(inputs, instances), inputs, instances)
        return instances

    def targets(self, inputs: MaskHeadInputs, instances: list[Instances], like: Tensor) -> Tensor:
        """(R, M, M) bool ground truth in the regions, at the size of ``like`` (…, M, M)."""
        side = like.shape[-1]
        return mask_targets(instances, side, boxes=inputs.boxes).to(like.device)

    def _train(self, inputs: MaskHeadInputs, instances: list[Instances]) -> dict[str, Tensor]:
        stages = self.predict(inputs)
        if len(inputs.classes) == 0:
            # Every parameter still takes part, which distributed training asks for.
            return {"loss_mask": self._no_loss() + sum(stage.sum() for stage in stages) * 0}
        losses = self.losses(stages, inputs, instances)
        losses = {name: loss * self.loss_weight for name, loss in losses.items()}
        if self.iou_predictor is None and not self._is_time_for_pictures():
            return losses
        with torch.no_grad():
            probabilities = self.probabilities(stages, inputs)
            targets = self.targets(inputs, instances, probabilities)
        if self.iou_predictor is not None:
            score_loss = self._score_loss(
                self.iou_predictor, inputs, instances, probabilities, targets
            )
            losses["loss_mask_iou"] = score_loss
        self._show(probabilities, targets)
        return losses

    def _test(self, inputs: MaskHeadInputs, instances: list[Instances]) -> Tensor:
        return self.probabilities(self.predict(inputs), inputs)

    # ---- Switches ----------------------------------------------------------------------------------

    def _trainable(self, features, instances: list[Instances]):
        if not self.train_classes:
            return features, instances
        keep = [_is_any_of(x.gt_classes, self.train_classes) for x in instances]
        instances = [x[k] for x, k in zip(instances, keep)]
        if isinstance(features, Tensor):
            features = features[torch.cat(keep)]
        return features, instances

    def _inputs(self, features, instances, boxes_field: str, classes_field: str) -> MaskHeadInputs:
        boxes = enlarge_boxes([x.get(boxes_field) for x in instances], self.context)
        classes = cat([x.get(classes_field) for x in instances]).to(torch.int64)
        if self.pooler is None:
            return MaskHeadInputs(features, {}, boxes, classes)
        pooled = self.pooler([features[name] for name in self.in_features], boxes)
        return MaskHeadInputs(pooled, features, boxes, classes)

    def _attach(self, masks: Tensor, inputs: MaskHeadInputs, instances: list[Instances]) -> None:
        counts = [len(x) for x in instances]
        quality = None
        if self.iou_predictor is not None:
            quality = self.iou_predictor(inputs.pooled, masks, inputs.classes).clamp(0, 1)
        elif self.score:
            quality = free_mask_quality(self.score, masks)
        for x, item in zip(instances, crop_context(masks, self.context).split(counts)):
            x.pred_masks = item
        if quality is None:
            return
        for x, item in zip(instances, quality.split(counts)):
            # Who runs a head twice on the same instances must not have their scores scaled twice.
            scored_before = x.has("mask_scores")
            item = item.to(x.scores.dtype) * x.scores if x.has("scores") else item
            if self.fold_score and x.has("scores"):
                if scored_before:
                    continue
                x.scores = item  # a new tensor: test-time augmentation shares the old one
            x.mask_scores = item

    def _score_loss(
        self, predictor: MaskIoUPredictor, inputs, instances, probabilities, targets
    ) -> Tensor:
        boxes = Boxes.cat(inputs.boxes).tensor
        target = mask_iou_target(probabilities, targets, boxes, instances)
        loss = predictor.loss(inputs.pooled, probabilities, inputs.classes, target)
        return loss * self.score_loss_weight

    def _no_loss(self) -> Tensor:
        return sum(parameter.sum() for parameter in self.parameters()) * 0

    def _is_time_for_pictures(self) -> bool:
        return self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0

    def _show(self, probabilities: Tensor, targets: Tensor) -> None:
        if not self._is_time_for_pictures():
            return
        pairs = torch.cat([probabilities[:, 0], targets.to(probabilities.dtype)], dim=2)
        for index, pair in enumerate(pairs[:8]):
            name = f"Left: mask prediction;   Right: mask GT ({index})"
            get_event_storage().put_image(name, pair.expand(3, *pair.shape))


def select_class(logits: Tensor, classes: Tensor) -> Tensor:
    """(R, M, M) of the class of each RoI from (R, K, M, M), or from (R, 1, M, M) for any class."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(classes), device=classes.device), classes]


def _is_any_of(classes: Tensor, wanted: list[int]) -> Tensor:
    return torch.isin(classes, torch.as_tensor(wanted, device=classes.device))


def _in_channels(input_shape: ShapeSpec | dict[str, ShapeSpec], names: list[str]) -> int:
    if isinstance(input_shape, ShapeSpec):
        return input_shape.channels
    channels = {input_shape[name].channels for name in names}
    if len(channels) != 1:
        raise ConfigError(
            f"a mask head pools from {names}, which have {sorted(channels)} channels; expected as many "
            "in each."
        )
    return channels.pop()
