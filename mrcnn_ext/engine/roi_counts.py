# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How many RoIs, masks and keypoints the losses of an R-CNN are means over, counted without losses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from detectron2.structures import Instances
from torch import nn

from ..errors import ConfigError

__all__ = ["check_roi_counts", "loss_weights", "roi_counts"]

# What a loss is a mean over, by the beginning of its name. Others, such as those of the RPN, are sums
# over images divided by a number for each image.
_KINDS = {
    "loss_cls": "rois",
    "loss_box_reg": "rois",
    "loss_mask": "masks",
    "loss_keypoint": "points",
}


def check_roi_counts(model: nn.Module, setting: str) -> None:
    """Refuse a model whose RoIs :func:`roi_counts` could not count.

    Raises:
        ConfigError: names ``setting``.
    """
    heads = getattr(model, "roi_heads", None)
    if not all(hasattr(predictor, "losses") for predictor in _predictors(heads)) or heads is None:
        what = type(model if heads is None else heads).__name__
        raise ConfigError(
            f"{setting} is 'whole_batch', but {what} does not say over how many RoIs its losses are "
            "means: it has no box_predictor with a method losses. Expected 'micro_batch'."
        )


@torch.no_grad()
def roi_counts(model: nn.Module, images: list[dict]) -> dict[str, int]:
    """What the losses of a training step on ``images`` are means over.

    The model's own forward runs, with counters in the place of losses and heads: proposals, sampling,
    and the boxes of a cascade's stages are the step's if the random state is. Buffers stay as they are.

    Args:
        model: a GeneralizedRCNN in training mode, or one with the same parts.
        images: Detectron2's list of dicts, with "instances".

    Returns:
        "rois" ("rois_stage1" … of a cascade): sampled RoIs. "masks": those of the mask head. "points":
        keypoints that are visible and inside their RoI; it is missing where the keypoint loss is
        divided by the number of images.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with _counters(model.roi_heads) as counts:
            model(images)
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
    return counts


def loss_weights(
    images: Sequence[int], counts: Sequence[Mapping[str, int]]
) -> list[Callable[[str], float]]:
    """For each part of a batch, the weight of a loss by its name. The weights of all parts sum to 1.

    Args:
        images: of each part.
        counts: of each part, as :func:`roi_counts` has them; empty: weights are shares of images.
    """

    def weights(index: int) -> Callable[[str], float]:
        def weight(name: str) -> float:
            kind = _kind(name)
            numbers = [part.get(kind, 0) for part in counts]
            if kind not in counts[index] or not sum(numbers):
                numbers = list(images)
            return numbers[index] / sum(numbers)

        return weight

    return [weights(index) for index in range(len(images))]


def _kind(name: str) -> str:
    kind = next((kind for start, kind in _KINDS.items() if name.startswith(start)), "")
    stage = re.search(r"_stage(\d+)$", name)
    return f"{kind}_stage{stage[1]}" if kind == "rois" and stage and stage[1] != "0" else kind


def _predictors(heads) -> list[nn.Module]:
    predictor = getattr(heads, "box_predictor", None)
    return list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]


@contextmanager
def _counters(heads: nn.Module) -> Iterator[dict[str, int]]:
    """Put counters in the place of losses and heads, for a while.

    They are attributes of the instances, which hide the methods of their classes.
    """
    counts: dict[str, int] = {}
    replaced: list[tuple[nn.Module, str, dict]] = []

    def count_rois(kind: str):
        def losses(predictions, proposals):
            counts[kind] = sum(map(len, proposals))
            return {}

        return losses

    def count_masks(features, instances):
        own = getattr(heads.mask_head, "num_trained", None)  # heads of this package leave some out
        counts["masks"] = own(features, instances) if own else sum(map(len, instances))
        return {}

    def count_points(features, instances):
        if getattr(heads.keypoint_head, "loss_normalizer", None) == "visible":
            counts["points"] = sum(map(_points, instances))
        return {}

    def put(module: nn.Module, name: str, counter) -> None:
        own = {name: vars(module)[name]} if name in vars(module) else {}
        replaced.append((module, name, own))
        setattr(module, name, counter)

    for stage, predictor in enumerate(_predictors(heads)):
        put(predictor, "losses", count_rois(f"rois_stage{stage}" if stage else "rois"))
    if getattr(heads, "mask_on", False):
        put(heads.mask_head, "forward", count_masks)
    if getattr(heads, "keypoint_on", False):
        put(heads.keypoint_head, "forward", count_points)
    try:
        yield counts
    finally:
        for module, name, own in reversed(replaced):
            delattr(module, name)
            vars(module).update(own)


def _points(instances: Instances) -> int:
    if not len(instances):
        return 0
    points = instances.gt_keypoints.tensor
    boxes = instances.proposal_boxes.tensor[:, None]
    inside = (points[..., :2] >= boxes[..., :2]) & (points[..., :2] <= boxes[..., 2:])
    return int((inside.all(dim=2) & (points[..., 2] > 0)).sum())
