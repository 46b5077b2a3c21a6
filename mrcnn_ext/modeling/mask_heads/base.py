# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The base of this package's mask heads: a head adds its layers, the base has all switches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...config.aliases import first_set
from ...engine.running import check_followed
from ...errors import ConfigError
from ...structures import mask_targets
from ..class_weights import class_weights_from_config
from .losses import MaskLoss, check_loss_names
from .regions import common_channels, crop_context, enlarge_boxes, pooled_maps
from .scoring import MASK_SCORES, MaskIoUPredictor, free_mask_quality, mask_iou_target

__all__ = ["MaskHeadBase", "MaskHeadInputs", "select_class"]

# The key of the maps to pool from, and its old name
_KEYS = ("MRCNN_EXT.MASK_HEAD.IN_FEATURES", "MRCNN_EXT.MASK_HEAD.POOLER_LEVELS")


@dataclass
class MaskHeadInputs:
    """The R RoIs of a batch, image by image.

    Attributes:
        pooled: (R, C, P, P) RoI features.
        maps: feature maps (N, C, H_l, W_l) by name; empty if RoI heads pool for the head.
        boxes: N Boxes, R in all: the regions that masks cover, in pixels of the image.
        classes: (R,) int64; of the ground truth in training, predicted otherwise.
        rasterised: ground truth of :meth:`MaskHeadBase.targets` by side, made once for each.
    """

    pooled: Tensor
    maps: dict[str, Tensor]
    boxes: list[Boxes]
    classes: Tensor
    rasterised: dict[int, Tensor] = field(default_factory=dict)


class MaskHeadBase(nn.Module):
    """Losses, targets, scores and regions around the layers of a mask head.

    A head implements :meth:`predict`; one with losses of its own also :meth:`losses`, which weighs them
    by :meth:`object_weights`; one whose masks are not the sigmoid of its last logits
    :meth:`probabilities`. It works in every RoI heads class that
    keeps Detectron2's contract: it takes instances and RoI features, or feature maps if it pools for
    itself, and returns losses or instances with ``pred_masks``.

    This package's Standard and Cascade RoI heads hand feature maps to heads that pool for themselves
    (:meth:`pools_itself`). Detectron2's do so with ``MODEL.ROI_MASK_HEAD.POOLER_TYPE: ""``.
    """

    # True: the head always pools for itself. False: only with CONTEXT or IN_FEATURES in the config.
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
        class_weights: nn.Module | None = None,
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
            input_shape: of the RoI features, or of each feature map if the head pools for itself.
            num_classes: foreground classes; 1 for masks that do not depend on the class.
            pooler: pools from the maps ``in_features``; None if RoI features come in.
            in_features: names of the maps for ``pooler``, finest first.
            resolution: side P of the RoI features.
            context: predict masks for boxes enlarged by this factor and cut them back afterwards: the
                head then sees the surroundings of an object. Needs ``pooler``.
            losses, loss_weights: see :class:`MaskLoss`.
            class_weights: gives (R,) factors of the losses of masks from their classes (R,), as
                :class:`~mrcnn_ext.modeling.class_weights.ClassWeights` does. None: all weigh the same.
            score: how to make ``mask_scores``, one of ``MASK_SCORES``; "": not at all.
            score_loss_weight, score_conv_dim, score_fc_dim: of :class:`MaskIoUPredictor`.
            fold_score: multiply ``scores`` by the mask's quality, which also re-ranks boxes.
            train_classes: only ground truth of these classes trains the head; empty: all classes.
            loss_weight: factor of all losses of the mask itself.
            vis_period: iterations between pictures in the event storage; 0: none.

        Raises:
            ConfigError: an argument is invalid, or excludes another.
        """
        super().__init__()
        if pooler is None and (self.needs_maps or context != 1):
            raise _needs_maps_error(type(self), context)
        if context < 1:
            raise ConfigError(f"the context of a mask head is {context}, expected 1 or more.")
        _check_score(score, "score")
        self.num_classes = num_classes
        self.pooler = pooler
        self.in_features = list(in_features)
        self.context = context
        self.mask_loss = MaskLoss(losses, loss_weights)
        self.class_weights = class_weights
        self.score = score
        self.score_loss_weight = score_loss_weight
        self.fold_score = fold_score
        self.train_classes = list(train_classes)
        self.loss_weight = loss_weight
        self.vis_period = vis_period
        if isinstance(input_shape, ShapeSpec):
            self.in_channels = input_shape.channels
        else:
            self.in_channels = common_channels(input_shape, self.in_features, _KEYS[0])
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
        check_followed(cfg)
        node, head = cfg.MRCNN_EXT.MASK_HEAD, cfg.MODEL.ROI_MASK_HEAD
        check_loss_names(node.LOSSES, "MRCNN_EXT.MASK_HEAD.LOSSES")
        _check_score(node.SCORE, "MRCNN_EXT.MASK_HEAD.SCORE")
        arguments = {
            "input_shape": input_shape,
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "context": node.CONTEXT,
            "losses": node.LOSSES,
            "loss_weights": node.LOSS_WEIGHTS,
            "class_weights": class_weights_from_config(cfg, "MASK_HEAD"),
            "score": node.SCORE,
            "score_loss_weight": node.SCORE_LOSS_WEIGHT,
            "score_conv_dim": node.SCORE_CONV_DIM,
            "score_fc_dim": node.SCORE_FC_DIM,
            "fold_score": node.FOLD_SCORE,
            "train_classes": node.TRAIN_CLASSES,
            "vis_period": cfg.VIS_PERIOD,
        }
        key, names = first_set(cfg, *_KEYS)
        if isinstance(input_shape, ShapeSpec):
            if cls.needs_maps:
                raise _needs_maps_error(cls, node.CONTEXT)
            if names:
                raise ConfigError(
                    f"{key} is {names}, but RoI heads pool for the mask head: set "
                    'MODEL.ROI_MASK_HEAD.POOLER_TYPE to "".'
                )
            return {**arguments, "resolution": input_shape.width or head.POOLER_RESOLUTION}
        arguments["resolution"] = head.POOLER_RESOLUTION
        arguments["in_features"], arguments["pooler"] = pooled_maps(
            input_shape,
            names,
            head.POOLER_RESOLUTION,
            key=key,
            sampling_ratio=head.POOLER_SAMPLING_RATIO,
            pooler_type=head.POOLER_TYPE or "ROIAlignV2",
        )
        return arguments

    @classmethod
    def pools_itself(cls, cfg) -> bool:
        """Whether the head takes feature maps instead of RoI features, with this config."""
        _, names = first_set(cfg, *_KEYS)
        return cls.needs_maps or cfg.MRCNN_EXT.MASK_HEAD.CONTEXT != 1 or bool(names)

    # ---- What a head implements --------------------------------------------------------------------

    def predict(self, inputs: MaskHeadInputs) -> list[Tensor]:
        """Logits of each stage, (R, classes or 1, M_i, M_i); the last are the result. R may be 0."""
        raise NotImplementedError

    def losses(
        self, stages: list[Tensor], inputs: MaskHeadInputs, instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Losses of the masks, before ``loss_weight``. The default looks at the last stage only."""
        logits = select_class(stages[-1], inputs.classes)
        targets = self.targets(inputs, instances, logits)
        return {"loss_mask": self.mask_loss(logits, targets, self.object_weights(inputs))}

    def probabilities(self, stages: list[Tensor], inputs: MaskHeadInputs) -> Tensor:
        """(R, 1, M, M) probabilities of the masks of ``inputs.classes``."""
        return select_class(stages[-1], inputs.classes)[:, None].sigmoid()

    # ---- Contract with the RoI heads ---------------------------------------------------------------

    def forward(self, features: Tensor | dict[str, Tensor], instances: list[Instances]):
        """
        Args:
            features: (R, C, P, P) RoI features, or feature maps by name.
            instances: N Instances; foreground with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``
                in training, with ``pred_boxes`` and ``pred_classes`` otherwise. Where they have
                ``gt_has_mask`` (bool), only those with True train the head.

        Returns:
            a dict of losses in training; otherwise the instances, with ``pred_masks`` (n, 1, M, M)
            probabilities and, if the head scores masks, ``mask_scores`` (n,).
        """
        if self.training:
            features, instances = self._trainable(features, instances)
            inputs = self._inputs(features, instances, "proposal_boxes", "gt_classes")
            return self._training_losses(inputs, instances)
        inputs = self._inputs(features, instances, "pred_boxes", "pred_classes")
        self._write_results(self._predict_masks(inputs, instances), inputs, instances)
        return instances

    def targets(self, inputs: MaskHeadInputs, instances: list[Instances], like: Tensor) -> Tensor:
        """(R, M, M) bool ground truth in the regions, at the size of ``like`` (…, M, M)."""
        side = like.shape[-1]
        if side not in inputs.rasterised:
            targets = mask_targets(instances, side, boxes=inputs.boxes)
            inputs.rasterised[side] = targets.to(like.device)
        return inputs.rasterised[side]

    def object_weights(self, inputs: MaskHeadInputs) -> Tensor | None:
        """(R,) float32 factors of the losses of each mask; None: all weigh the same."""
        return None if self.class_weights is None else self.class_weights(inputs.classes)

    def _training_losses(
        self, inputs: MaskHeadInputs, instances: list[Instances]
    ) -> dict[str, Tensor]:
        stages = self.predict(inputs)
        if len(inputs.classes) == 0:
            # Distributed training needs a gradient for every parameter.
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

    def _predict_masks(self, inputs: MaskHeadInputs, instances: list[Instances]) -> Tensor:
        return self.probabilities(self.predict(inputs), inputs)

    # ---- Switches ----------------------------------------------------------------------------------

    def num_trained(self, features, instances: list[Instances]) -> int:
        """How many of ``instances`` in training the losses are over; see :meth:`forward`."""
        return sum(map(len, self._trainable(features, instances)[1]))

    def _trainable(self, features, instances: list[Instances]):
        if not self.train_classes and not any(x.has("gt_has_mask") for x in instances):
            return features, instances
        keep = [self._teaches(x) for x in instances]
        instances = [x[k] for x, k in zip(instances, keep)]
        if isinstance(features, Tensor):
            features = features[torch.cat(keep)]
        return features, instances

    def _teaches(self, instances: Instances) -> Tensor:
        """(n,) bool: whose masks train the head. Images without objects have no ``gt_has_mask``."""
        classes = instances.gt_classes
        keep = torch.ones_like(classes, dtype=torch.bool)
        if self.train_classes:
            keep = _is_any_of(classes, self.train_classes)
        return keep & instances.gt_has_mask if instances.has("gt_has_mask") else keep

    def _inputs(self, features, instances, boxes_field: str, classes_field: str) -> MaskHeadInputs:
        boxes = enlarge_boxes([x.get(boxes_field) for x in instances], self.context)
        classes = cat([x.get(classes_field) for x in instances]).to(torch.int64)
        if self.pooler is None:
            return MaskHeadInputs(features, {}, boxes, classes)
        pooled = self.pooler([features[name] for name in self.in_features], boxes)
        return MaskHeadInputs(pooled, features, boxes, classes)

    def _write_results(
        self, masks: Tensor, inputs: MaskHeadInputs, instances: list[Instances]
    ) -> None:
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
            # Don't rescale scores if this head already ran on these instances.
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


def _needs_maps_error(head: type, context: float) -> ConfigError:
    what = f"{head.__name__} with a context of {context}" if context != 1 else head.__name__
    return ConfigError(
        f"{what} pools feature maps itself, but gets RoI features. Set MODEL.ROI_HEADS.NAME to "
        "MrcnnExtStandardROIHeads or MrcnnExtCascadeROIHeads; or, for Detectron2's two, "
        'MODEL.ROI_MASK_HEAD.POOLER_TYPE to "". Res5 heads (C4) cannot give feature maps to a mask '
        "head."
    )


def _check_score(score: str, key: str) -> None:
    if score and score not in MASK_SCORES:
        raise ConfigError(f"{key} is '{score}'; expected one of {list(MASK_SCORES)}, or ''.")
