# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask heads as a kind of head that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.modeling import ROI_MASK_HEAD_REGISTRY

from ...errors import ConfigError
from ...modeling.mask_heads import MaskHeadBase
from ...modeling.roi_heads import pools_itself
from ...visualization.compared import MASK_COLORS
from ..kind import HeadKind, Painter
from ..results import Comparison
from ..tables import NamedTable
from .evaluation import MaskEvaluation
from .objects import TrueObject, measure_filled_boxes, true_objects
from .pictures import draw_mask
from .tables import mask_tables

__all__ = ["MaskKind"]

_POOLER_TYPE = "MODEL.ROI_MASK_HEAD.POOLER_TYPE"


class MaskKind(HeadKind):
    name = "mask"
    module = "mask_head"
    switch = "MASK_ON"
    node = "ROI_MASK_HEAD"
    field = "pred_masks"
    registry = ROI_MASK_HEAD_REGISTRY
    keys = ("MODEL.ROI_MASK_HEAD.", "MODEL.POINT_HEAD.", "MRCNN_EXT.")
    fixed = (
        *("MRCNN_EXT.TIMM.", "MRCNN_EXT.SHAPES.", "MRCNN_EXT.DATA.", "MRCNN_EXT.POSE."),
        "MRCNN_EXT.EVALUATION.",
    )
    own_keys = "MRCNN_EXT.MASK_HEAD."
    base_class = MaskHeadBase
    plain_head = "MrcnnExtFCNMaskHead"
    can_hold_out = True
    answers = "masks.json"
    ap = ("segm/AP", "mask AP")
    measures = (("iou", "IoU"), ("boundary_iou", "boundary IoU"))
    one_scale = True
    judged_by = ("boundary_iou", "boundary IoU")
    colors = MASK_COLORS
    legend = (
        ("right", "in mask and truth"),
        ("false_positive", "in the mask only"),
        ("false_negative", "in the truth only"),
    )

    def complete(self, cfg, given: Sequence[str]) -> None:
        if _POOLER_TYPE not in given and pools_itself(cfg, "mask"):
            cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""

    def hold_out(self, cfg, classes: Sequence[int], name: str) -> None:
        """
        Raises:
            ConfigError: the head cannot leave classes out.
        """
        head = cfg.MODEL.ROI_MASK_HEAD
        if not self.is_of_this_package(head.NAME):
            raise ConfigError(
                f"--held-out: {head.NAME} cannot leave classes out. Wrap it: "
                f'{name}=MrcnnExtWrappedMaskHead:"MRCNN_EXT.MASK_HEAD.WRAPPED {head.NAME}"'
            )
        rest = [k for k in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES) if k not in classes]
        cfg.MRCNN_EXT.MASK_HEAD.TRAIN_CLASSES = rest
        head.CLS_AGNOSTIC_MASK = True

    def isolate(self, cfg) -> None:
        cfg.MODEL.KEYPOINT_ON = False

    def evaluation(self, cfg, folder: Path) -> MaskEvaluation:
        return MaskEvaluation(cfg, folder)

    def objects(self, record: dict) -> list[TrueObject]:
        return true_objects(record)

    def reference(self, folder: Path, cfg, records: Sequence[dict]) -> dict:
        """Of the filled true boxes."""
        dilation = cfg.MRCNN_EXT.EVALUATION.BOUNDARY_DILATION
        return measure_filled_boxes(folder / "box_as_mask.json", records, dilation)

    def tables(self, c: Comparison, reference: dict | None = None) -> list[NamedTable]:
        return mask_tables(c, reference)

    def painter(self, dataset: str) -> Painter:
        return draw_mask
