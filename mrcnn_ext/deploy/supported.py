# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Which models can be exported, and why others cannot."""

from __future__ import annotations

import importlib.util

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads import (
    BaseKeypointRCNNHead,
    BaseMaskRCNNHead,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.modeling.roi_heads.rotated_fast_rcnn import RROIHeads
from torch import nn

from ..errors import ConfigError
from ..modeling.keypoint_heads import KeypointHeadBase
from ..modeling.mask_heads import MrcnnExtWrappedMaskHead
from ..modeling.mask_heads.base import MaskHeadBase
from ..modeling.meta_arch import MrcnnExtRCNN
from .traceable import keypoint_head_of

__all__ = ["OPSETS", "check_installed", "check_model", "check_opset"]

OPSETS = range(17, 21)  # as far as PyTorch's exporter by tracing goes
_ANTIALIAS = 18  # the first opset whose Resize has it


def check_installed(*modules: str) -> None:
    """
    Raises:
        ImportError: one of the modules is missing.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{' and '.join(missing)} must be installed for this: pip install {' '.join(missing)}, or "
            "'mrcnn_ext[export]'."
        )


def check_opset(opset: int, *, resize: bool) -> None:
    """
    Raises:
        ConfigError: the opset lacks what the model needs, or PyTorch cannot write it.
    """
    if resize and opset < _ANTIALIAS:
        raise ConfigError(
            f"opset {opset} cannot resize as Detectron2 does (Resize has no antialias); resizing in "
            f"the graph takes {_ANTIALIAS} or more."
        )
    if opset not in OPSETS:
        raise ConfigError(f"opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}.")


def check_model(model: nn.Module) -> None:
    """
    Raises:
        ConfigError: a part of the model cannot be exported; names it and says why.
    """
    kind = type(model)
    known = (GeneralizedRCNN.inference, MrcnnExtRCNN.inference)
    if not isinstance(model, GeneralizedRCNN) or kind.inference not in known:
        raise ConfigError(
            f"{kind.__name__} cannot be exported: only GeneralizedRCNN and MrcnnExtRCNN can, and "
            "subclasses that keep their inference."
        )
    proposals, heads = model.proposal_generator, model.roi_heads
    if not isinstance(proposals, RPN) or isinstance(proposals, RRPN):
        raise _refused(proposals, "boxes must come from Detectron2's RPN.")
    if not isinstance(heads, (StandardROIHeads, Res5ROIHeads)) or isinstance(heads, RROIHeads):
        raise _refused(heads, "Standard, Cascade and Res5 RoI heads can, without rotated boxes.")
    predictors = heads.box_predictor
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        if not isinstance(predictor, FastRCNNOutputLayers):
            raise _refused(predictor, "boxes must be FastRCNNOutputLayers'.")
    if getattr(heads, "mask_on", False):
        _check_mask_head(heads.mask_head)
    head = keypoint_head_of(model)
    if head is not None and not isinstance(head, (KeypointHeadBase, BaseKeypointRCNNHead)):
        raise _refused(head, "it is neither this package's nor derived from BaseKeypointRCNNHead.")


def _check_mask_head(head: nn.Module) -> None:
    if isinstance(head, MrcnnExtWrappedMaskHead):
        _check_mask_head(head.head)
    if not isinstance(head, (MaskHeadBase, BaseMaskRCNNHead)):
        raise _refused(
            head,
            "it is neither this package's nor derived from BaseMaskRCNNHead, so that nothing is known "
            "of its masks. For PointRend take MrcnnExtPointRendMaskHead.",
        )


def _refused(part: nn.Module, why: str) -> ConfigError:
    return ConfigError(f"{type(part).__name__} cannot be exported: {why}")
