# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Values in a yaml config that cannot work or that nothing reads, found before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from detectron2.modeling import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from fvcore.common.config import CfgNode

from ..errors import ConfigError
from .defaults import add_mrcnn_ext_config

__all__ = ["changed_keys", "check_values", "plain", "unexpected", "value_of"]

# Factors of losses: 0 or more. Lists have several.
_WEIGHTS = (
    "MODEL.RPN.LOSS_WEIGHT",
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT",
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT",
    "SOLVER.WEIGHT_DECAY",
    "MRCNN_EXT.MASK_HEAD.LOSS_WEIGHTS",
    "MRCNN_EXT.MASK_HEAD.SCORE_LOSS_WEIGHT",
    "MRCNN_EXT.MASK_HEAD.BOUNDARY.BCE_WEIGHT",
    "MRCNN_EXT.MASK_HEAD.BOUNDARY.DICE_WEIGHT",
    "MRCNN_EXT.MASK_HEAD.REFINE_MASK.STAGE_WEIGHTS",
    "MRCNN_EXT.KEYPOINT_HEAD.INTEGRAL.REGULARIZATION",
)
_RATES = (
    "MODEL.RPN.POSITIVE_FRACTION",
    "MODEL.RPN.NMS_THRESH",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.ROI_HEADS.IOU_THRESHOLDS",
    "MRCNN_EXT.TIMM.DROP_PATH_RATE",
    "MRCNN_EXT.MASK_HEAD.POINT_REND.IMPORTANCE_RATIO",
    "MRCNN_EXT.EVALUATION.BOUNDARY_DILATION",
)
_FINITE = ("SOLVER.BASE_LR", "SOLVER.MOMENTUM", "MRCNN_EXT.MASK_HEAD.CONTEXT")
# Least value of whole numbers
_LEAST = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 1,
    "MRCNN_EXT.EVALUATION.MAX_DETECTIONS": 0,
    "MRCNN_EXT.EVALUATION.LVIS_MAX_PER_CLASS": 0,
}
# Switches that all heads of this package read, and no head of Detectron2 does
_OWN_SWITCHES = {
    "ROI_MASK_HEAD": [
        f"MRCNN_EXT.MASK_HEAD.{name}"
        for name in (
            *("LOSSES", "LOSS_WEIGHTS", "SCORE", "FOLD_SCORE", "IN_FEATURES", "POOLER_LEVELS"),
            *("CONTEXT", "TRAIN_CLASSES", "COUPLING"),
        )
    ],
    "ROI_KEYPOINT_HEAD": [
        f"MRCNN_EXT.KEYPOINT_HEAD.{name}"
        for name in ("CODEC", "SCORE", "FOLD_SCORE", "NORM", "LIGHT", "MASK_GUIDED")
    ],
}
_HEADS = {
    "ROI_BOX_HEAD": (None, ROI_BOX_HEAD_REGISTRY),
    "ROI_MASK_HEAD": ("MASK_ON", ROI_MASK_HEAD_REGISTRY),
    "ROI_KEYPOINT_HEAD": ("KEYPOINT_ON", ROI_KEYPOINT_HEAD_REGISTRY),
}
_POOLERS = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")
_GROUPS = 32


def check_values(cfg) -> None:
    """Check single values of ``cfg``, and switches against the heads that should read them.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node; its names are registered.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    _check_numbers(cfg)
    _check_classes(cfg)
    for node, (switch, registry) in _HEADS.items():
        if switch is None or cfg.MODEL[switch]:
            _check_head(cfg, node, registry)
    _check_features(cfg)
    _check_cascade(cfg)
    _check_group_norm(cfg)
    if cfg.INPUT.MASK_FORMAT not in ("polygon", "bitmask"):
        raise unexpected("INPUT.MASK_FORMAT", cfg.INPUT.MASK_FORMAT, "'polygon' or 'bitmask'")


def value_of(cfg, key: str):
    """The value of a key, given with its nodes."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def unexpected(key: str, value, expected: str) -> ConfigError:
    """The error for a value of a key."""
    return ConfigError(f"{key} is {value!r}; expected {expected}.")


def _numbers(cfg, key: str, expected: str) -> Iterable[float]:
    value = value_of(cfg, key)
    values = value if isinstance(value, (list, tuple)) else [value]
    for item in values:
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not math.isfinite(item):
            raise unexpected(key, value, expected)
    return values


def _check_numbers(cfg) -> None:
    for key in _WEIGHTS:
        if any(item < 0 for item in _numbers(cfg, key, "0 or more")):
            raise unexpected(key, value_of(cfg, key), "0 or more")
    for key in _RATES:
        if any(not 0 <= item <= 1 for item in _numbers(cfg, key, "0 to 1")):
            raise unexpected(key, value_of(cfg, key), "0 to 1")
    for key in _FINITE:
        _numbers(cfg, key, "a finite number")
    for key, least in _LEAST.items():
        value = value_of(cfg, key)
        if not isinstance(value, int) or value < least:
            raise unexpected(key, value, f"{least} or more")
    node = cfg.MRCNN_EXT.MASK_HEAD
    if node.CONTEXT < 1:
        raise unexpected("MRCNN_EXT.MASK_HEAD.CONTEXT", node.CONTEXT, "1 or more")
    if not node.LOSSES:
        raise unexpected("MRCNN_EXT.MASK_HEAD.LOSSES", [], "one loss or more")
    if len(node.LOSSES) != len(node.LOSS_WEIGHTS):
        raise ConfigError(
            f"MRCNN_EXT.MASK_HEAD.LOSS_WEIGHTS has {len(node.LOSS_WEIGHTS)} numbers; expected one for "
            f"each of LOSSES, {list(node.LOSSES)}."
        )


def _check_classes(cfg) -> None:
    key, number = "MRCNN_EXT.MASK_HEAD.TRAIN_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for item in value_of(cfg, key):
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < number:
            raise unexpected(key, list(value_of(cfg, key)), f"whole numbers from 0 to {number - 1}")


def _check_head(cfg, node: str, registry) -> None:
    head = cfg.MODEL[node]
    if not head.NAME:  # C4 has no box head
        return
    module = registry.get(head.NAME).__module__
    stock = module.startswith("detectron2.modeling.")
    if _pools(cfg):
        if head.POOLER_TYPE and module.startswith("detectron2.projects.point_rend"):
            expected = f"'', since {head.NAME} takes feature maps"
            raise unexpected(f"MODEL.{node}.POOLER_TYPE", head.POOLER_TYPE, expected)
        if head.POOLER_TYPE == "" and stock:
            raise ConfigError(
                f"MODEL.{node}.POOLER_TYPE is '', but {head.NAME} takes pooled features; expected "
                f"one of {', '.join(_POOLERS)}."
            )
        if head.POOLER_TYPE not in (*_POOLERS, ""):
            raise unexpected(
                f"MODEL.{node}.POOLER_TYPE", head.POOLER_TYPE, f"one of {', '.join(_POOLERS)}"
            )
    if head.POOLER_RESOLUTION < 1:
        raise unexpected(f"MODEL.{node}.POOLER_RESOLUTION", head.POOLER_RESOLUTION, "1 or more")
    if head.POOLER_SAMPLING_RATIO < 0:
        expected = "0 (by the size of the box) or more"
        raise unexpected(
            f"MODEL.{node}.POOLER_SAMPLING_RATIO", head.POOLER_SAMPLING_RATIO, expected
        )
    if stock and node in _OWN_SWITCHES:
        defaults = CfgNode()
        add_mrcnn_ext_config(defaults)
        for key in _OWN_SWITCHES[node]:
            if plain(value_of(cfg, key)) != plain(value_of(defaults, key)):
                raise ConfigError(
                    f"{key} is {value_of(cfg, key)!r}, which {head.NAME} does not read; heads of this "
                    "package do (MrcnnExt…)."
                )


def changed_keys(cfg, node: str, defaults) -> list[str]:
    """Full names of the keys of ``node`` whose values differ from ``defaults``, a node of them."""
    return [
        f"{node}.{name}"
        for name, default in defaults.items()
        if plain(value_of(cfg, f"{node}.{name}")) != plain(default)
    ]


def plain(value):
    """A value for comparison: tuples and lists are the same in a config."""
    return list(value) if isinstance(value, tuple) else value


def _pools(cfg) -> bool:
    """Whether the RoI heads are known to pool with Detectron2's poolers for each head."""
    return _roi_heads_are(cfg, StandardROIHeads)


def _roi_heads_are(cfg, kind: type) -> bool:
    roi_heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    return isinstance(roi_heads, type) and issubclass(roi_heads, kind)


def _check_cascade(cfg) -> None:
    """What CascadeROIHeads asserts without a message."""
    if not _roi_heads_are(cfg, CascadeROIHeads):
        return
    name, node = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_CASCADE_HEAD
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise ConfigError(
            f"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is False, but {name} hands one box from stage "
            "to stage, whatever its class; expected True."
        )
    if len(node.BBOX_REG_WEIGHTS) != len(node.IOUS):
        raise ConfigError(
            f"MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS has {len(node.BBOX_REG_WEIGHTS)} entries; "
            f"expected one for each of IOUS, {list(node.IOUS)}."
        )
    first = list(cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS)
    if not node.IOUS or first != [node.IOUS[0]]:
        raise ConfigError(
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS is {first}; expected the first number of "
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS, {list(node.IOUS)}, alone."
        )


def _feature_maps(cfg) -> set[str] | None:
    """Names of the maps that the backbone returns; None for one that is not known here."""
    name, model = cfg.MODEL.BACKBONE.NAME, cfg.MODEL
    if name == "build_resnet_backbone":
        return set(model.RESNETS.OUT_FEATURES)
    if name == "build_timm_backbone":
        return set(cfg.MRCNN_EXT.TIMM.OUT_FEATURES)
    if name not in ("build_resnet_fpn_backbone", "build_timm_fpn_backbone"):
        return None
    inputs = list(model.FPN.IN_FEATURES)
    if name == "build_resnet_fpn_backbone":
        _check_known("MODEL.FPN.IN_FEATURES", inputs, set(model.RESNETS.OUT_FEATURES))
    elif not set(inputs) <= set(cfg.MRCNN_EXT.TIMM.OUT_FEATURES):
        return None  # which the backbone says
    levels = [int(item[3:]) for item in inputs if item[:3] == "res" and item[3:].isdigit()]
    if not levels or len(levels) < len(inputs):
        raise unexpected("MODEL.FPN.IN_FEATURES", inputs, "names such as 'res2'")
    return {f"p{level}" for level in (*levels, max(levels) + 1)}


def _check_features(cfg) -> None:
    known = _feature_maps(cfg)
    if known is None:
        return
    for key in ("MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES"):
        if key.startswith("MODEL.RPN") and cfg.MODEL.PROPOSAL_GENERATOR.NAME != "RPN":
            continue
        _check_known(key, list(value_of(cfg, key)), known)


def _check_known(key: str, names: list, known: set[str]) -> None:
    if not names or any(name not in known for name in names):
        raise unexpected(key, names, f"some of {', '.join(sorted(known))}")


def _check_group_norm(cfg) -> None:
    for norm_key, width_key, widths in _normed(cfg):
        if value_of(cfg, norm_key) != "GN":
            continue
        for width in widths:
            if width % _GROUPS:
                raise ConfigError(
                    f"{norm_key} is 'GN', which has {_GROUPS} groups, but {width_key} is {width}; "
                    f"expected a multiple of {_GROUPS}."
                )


def _normed(cfg) -> Iterator[tuple[str, str, list[int]]]:
    """Key of a norm, key of the widths that it divides into groups, these widths."""
    model = cfg.MODEL
    if model.BACKBONE.NAME.endswith("fpn_backbone"):
        yield "MODEL.FPN.NORM", "MODEL.FPN.OUT_CHANNELS", [model.FPN.OUT_CHANNELS]
    if model.ROI_BOX_HEAD.NAME and model.ROI_BOX_HEAD.NUM_CONV:
        key = "MODEL.ROI_BOX_HEAD"
        yield f"{key}.NORM", f"{key}.CONV_DIM", [model.ROI_BOX_HEAD.CONV_DIM]
    head = model.ROI_MASK_HEAD
    # The mask heads of this package take other groups for other widths.
    module = ROI_MASK_HEAD_REGISTRY.get(head.NAME).__module__ if model.MASK_ON else ""
    if module.startswith("detectron2.modeling."):
        yield "MODEL.ROI_MASK_HEAD.NORM", "MODEL.ROI_MASK_HEAD.CONV_DIM", [head.CONV_DIM]
    if model.KEYPOINT_ON:
        widths = list(model.ROI_KEYPOINT_HEAD.CONV_DIMS)
        yield "MRCNN_EXT.KEYPOINT_HEAD.NORM", "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", widths
