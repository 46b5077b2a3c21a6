# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoint heads as a kind of head that can be compared."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY

from ...data.skeletons import skeletons_of_dataset
from ...modeling.keypoint_heads import KeypointHeadBase
from ...visualization.compared import KEYPOINT_COLORS
from ..kind import HeadKind, Painter
from ..results import Comparison
from ..tables import NamedTable
from .evaluation import KeypointEvaluation
from .objects import PosedObject, posed_objects
from .pictures import draw_keypoints, edges_of
from .tables import keypoint_tables

__all__ = ["KeypointKind"]


class KeypointKind(HeadKind):
    name = "keypoint"
    settings = {"part": "keypoint"}
    module = "keypoint_head"
    switch = "KEYPOINT_ON"
    node = "ROI_KEYPOINT_HEAD"
    field = "pred_keypoints"
    registry = ROI_KEYPOINT_HEAD_REGISTRY
    keys = ("MODEL.ROI_KEYPOINT_HEAD.", "MRCNN_EXT.KEYPOINT_HEAD.")
    fixed = (
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
    )
    own_keys = "MRCNN_EXT.KEYPOINT_HEAD."
    base_class = KeypointHeadBase
    plain_head = "MrcnnExtHeatmapKeypointHead"
    answers = "keypoints.json"
    ap = ("keypoints/AP", "keypoint AP")
    measures = (("error", "error, % of \N{SQUARE ROOT}area"), ("oks", "OKS"))
    one_scale = False
    judged_by = ("oks", "OKS")
    colors = KEYPOINT_COLORS
    legend = (
        ("truth", "truth"),
        ("predicted", "predicted"),
        ("error", "from a prediction to its true place"),
    )

    def isolate(self, cfg) -> None:
        cfg.MODEL.MASK_ON = cfg.MODEL.MASK_ON and cfg.MRCNN_EXT.KEYPOINT_HEAD.MASK_GUIDED

    def evaluation(self, cfg, folder: Path) -> KeypointEvaluation:
        return KeypointEvaluation(cfg, folder)

    def objects(self, record: dict) -> list[PosedObject]:
        return posed_objects(record)

    def tables(self, c: Comparison, reference: dict | None = None) -> list[NamedTable]:
        return keypoint_tables(c)

    def painter(self, dataset: str) -> Painter:
        return partial(draw_keypoints, edges=edges_of(skeletons_of_dataset(dataset)))
