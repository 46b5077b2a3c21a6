# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask and keypoint heads that pool feature maps themselves."""

from __future__ import annotations

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY, ROI_MASK_HEAD_REGISTRY

__all__ = ["pools_itself", "self_pooling_arguments"]

# Prefix of the arguments of StandardROIHeads -> switch, node of the config, registry of heads.
_KINDS = {
    "mask": ("MASK_ON", "ROI_MASK_HEAD", ROI_MASK_HEAD_REGISTRY),
    "keypoint": ("KEYPOINT_ON", "ROI_KEYPOINT_HEAD", ROI_KEYPOINT_HEAD_REGISTRY),
}


def pools_itself(cfg, kind: str) -> bool:
    """Whether the head that ``cfg`` names takes feature maps instead of RoI features.

    Any registered head can say so, with a class attribute ``needs_maps = True`` or, where it depends
    on the config, a class method ``pools_itself(cfg)`` as MaskHeadBase has it.

    Args:
        cfg: the config.
        kind: "mask" or "keypoint".
    """
    switch, node, registry = _KINDS[kind]
    if not cfg.MODEL[switch]:
        return False
    head = registry.get(cfg.MODEL[node].NAME)
    if hasattr(head, "pools_itself"):
        return head.pools_itself(cfg)
    return bool(getattr(head, "needs_maps", False))


def self_pooling_arguments(
    cfg, kind: str, input_shape: dict[str, ShapeSpec]
) -> dict[str, Any] | None:
    """Arguments of StandardROIHeads for a head that pools for itself; None for other heads.

    Args:
        cfg, kind: as for :func:`pools_itself`.
        input_shape: of the feature maps.
    """
    if not pools_itself(cfg, kind):
        return None
    _, node, registry = _KINDS[kind]
    names = cfg.MODEL.ROI_HEADS.IN_FEATURES
    head = registry.get(cfg.MODEL[node].NAME)(cfg, {name: input_shape[name] for name in names})
    return {f"{kind}_in_features": names, f"{kind}_pooler": None, f"{kind}_head": head}
