# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""No masks for detections that score too little to be looked at."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn

from ..errors import ConfigError
from ..modeling.mixins import ModuleMixin, mix_in

__all__ = ["set_min_mask_score", "takes_min_mask_score"]


def set_min_mask_score(model: nn.Module, floor: float) -> None:
    """Compute masks of detections with a score of ``floor`` or more only, in place.

    The others keep box, class and score, and get an empty mask and a mask score of 0.

    Args:
        model: for inference.
        floor: from 0 to 1; 0 computes all.

    Raises:
        ConfigError: a value out of range, or RoI heads that are neither standard, nor cascade, nor C4.
    """
    if not 0 <= floor <= 1:
        raise ConfigError(f"min_mask_score is {floor}; expected 0 to 1.")
    roi_heads = getattr(model, "roi_heads", None)
    if floor == 0 or roi_heads is None or not getattr(roi_heads, "mask_on", False):
        return
    mixin = _mixin_for(roi_heads)
    if mixin is None:
        raise ConfigError(
            f"min_mask_score is {floor}, which {type(roi_heads).__name__} cannot follow: it works for "
            "standard and cascade RoI heads, and for C4 without keypoints."
        )
    mix_in(mixin, roi_heads)
    roi_heads.min_mask_score = floor


def takes_min_mask_score(model: nn.Module) -> bool:
    """Whether :func:`set_min_mask_score` knows the RoI heads of ``model``."""
    return _mixin_for(getattr(model, "roi_heads", None)) is not None


def _mixin_for(roi_heads: nn.Module | None) -> type | None:
    if isinstance(roi_heads, StandardROIHeads):
        return _Standard
    if isinstance(roi_heads, Res5ROIHeads) and not getattr(roi_heads, "keypoint_on", False):
        return _Res5
    return None


class _Standard(ModuleMixin):
    min_mask_score: float

    def _forward_mask(self, features: dict, instances: list[Instances]) -> list[Instances]:
        run = super()._forward_mask  # type: ignore[misc]
        return _for_some(self.min_mask_score, instances, lambda some: run(features, some))


class _Res5(ModuleMixin):
    min_mask_score: float

    def forward_with_given_boxes(self, features: dict, instances: list[Instances]):
        run = super().forward_with_given_boxes  # type: ignore[misc]
        return _for_some(self.min_mask_score, instances, lambda some: run(features, some))


def _for_some(
    floor: float, instances: list[Instances], run: Callable[[list[Instances]], list[Instances]]
) -> list[Instances]:
    """What ``run`` adds to and changes in the instances with enough score, put back in their places."""
    if not all(item.has("scores") for item in instances):  # given boxes
        return run(instances)
    chosen = [item.scores >= floor for item in instances]
    results = run([item[rows] for item, rows in zip(instances, chosen)])
    for item, rows, result in zip(instances, chosen, results):
        for name, value in result.get_fields().items():
            if not isinstance(value, Tensor):
                continue
            if item.has(name):
                whole = item.get(name).clone()  # test-time augmentation shares them
            else:
                whole = value.new_zeros((len(item), *value.shape[1:]))
            whole[rows] = value.to(whole.dtype)
            item.set(name, whole)
    return instances
