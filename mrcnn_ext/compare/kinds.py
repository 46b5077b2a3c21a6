# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The part of a model that is compared: its mask head, or its keypoint head."""

from __future__ import annotations

from dataclasses import dataclass, field

from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY, ROI_MASK_HEAD_REGISTRY
from fvcore.common.registry import Registry
from torch import nn

from ..modeling.keypoint_heads import KeypointHeadBase
from ..modeling.mask_heads import MaskHeadBase

__all__ = ["HEAD_KINDS", "KEYPOINT", "MASK", "HeadKind"]


@dataclass(frozen=True)
class HeadKind:
    """Where a head is in a model, in configs and in registries.

    Attributes:
        name: for ``--part`` and in sentences: "mask head".
        module: its attribute in RoI heads.
        switch: its key in MODEL.
        node: its node in MODEL.
        registry: of its names.
        keys: beginnings of the keys in which frozen heads may differ.
        fixed: of these, keys that are the detector's.
        own_keys: beginning of the keys that only heads of this package read.
        base_class: of these.
    """

    name: str
    module: str
    switch: str
    node: str
    registry: Registry = field(repr=False)
    keys: tuple[str, ...]
    fixed: tuple[str, ...]
    own_keys: str
    base_class: type

    def owns(self, name: str) -> bool:
        """Whether a parameter, buffer or module of a model, by its name, belongs to the head."""
        return self.module in name.split(".")

    def head(self, model: nn.Module) -> nn.Module:
        """The module that is compared."""
        return getattr(model.roi_heads, self.module)

    def is_of_this_package(self, head: str) -> bool:
        """Whether a registered head has the switches under ``own_keys``."""
        if head not in self.registry:
            return False
        return issubclass(self.registry.get(head), self.base_class)


MASK = HeadKind(
    name="mask",
    module="mask_head",
    switch="MASK_ON",
    node="ROI_MASK_HEAD",
    registry=ROI_MASK_HEAD_REGISTRY,
    keys=("MODEL.ROI_MASK_HEAD.", "MODEL.POINT_HEAD.", "MRCNN_EXT."),
    fixed=("MRCNN_EXT.TIMM.", "MRCNN_EXT.SHAPES.", "MRCNN_EXT.EVALUATION."),
    own_keys="MRCNN_EXT.MASK_HEAD.",
    base_class=MaskHeadBase,
)
KEYPOINT = HeadKind(
    name="keypoint",
    module="keypoint_head",
    switch="KEYPOINT_ON",
    node="ROI_KEYPOINT_HEAD",
    registry=ROI_KEYPOINT_HEAD_REGISTRY,
    keys=("MODEL.ROI_KEYPOINT_HEAD.", "MRCNN_EXT.KEYPOINT_HEAD."),
    fixed=(
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
    ),
    own_keys="MRCNN_EXT.KEYPOINT_HEAD.",
    base_class=KeypointHeadBase,
)
HEAD_KINDS = {part.name: part for part in (MASK, KEYPOINT)}
