# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How mask heads are measured: IoU of masks and of their boundaries, and what tells it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from torch import nn

from ...coco.rle import encode_mask, text_rle
from ...evaluation import MrcnnExtCOCOEvaluator
from ...evaluation.boundary import mask_and_boundary_iou
from ...modeling.mask_heads.scoring import FREE_MASK_SCORES, free_mask_quality
from ..evaluation import HeadEvaluation
from .objects import (
    QUALITIES,
    TrueObject,
    boxes_without_mask,
    match_detections,
    quality_field,
)

__all__ = ["MaskEvaluation"]


class MaskEvaluation(HeadEvaluation):
    """See :class:`HeadEvaluation`."""

    tasks = ("bbox", "segm", "boundary")
    columns = ("iou", "boundary_iou")
    qualities = QUALITIES
    truth = "iou"

    def __init__(self, cfg, folder: Path) -> None:
        self.boundary_dilation = cfg.MRCNN_EXT.EVALUATION.BOUNDARY_DILATION
        self.evaluator = MrcnnExtCOCOEvaluator(
            cfg.DATASETS.TEST[0],
            self.tasks,
            False,
            str(folder / "inference"),
            boundary_dilation=self.boundary_dilation,
            boxes_only=cfg.MRCNN_EXT.DATA.BOXES_ONLY,
        )
        self.without_mask: dict = {}
        if cfg.MRCNN_EXT.DATA.BOXES_ONLY:
            self.without_mask = boxes_without_mask(DatasetCatalog.get(cfg.DATASETS.TEST[0]))

    @torch.no_grad()
    def predict(self, model: nn.Module, inputs: dict, given: Instances | None = None) -> Instances:
        """
        Returns:
            Instances that also have ``quality_mean_foreground`` and ``quality_certainty`` (n,), and
            ``quality_mask_iou`` if the head predicts it.
        """
        (raw,) = model.inference(  # type: ignore[operator]
            [inputs], None if given is None else [given], do_postprocess=False
        )
        size = raw.image_size
        _add_qualities(model, raw)
        (output,) = GeneralizedRCNN._postprocess([raw], [inputs], [size])
        return output["instances"].to("cpu")

    def match(self, output: Instances, objects: Sequence[TrueObject]) -> list[dict[str, float]]:
        others = self.without_mask.get(objects[0].image_id, ()) if objects else ()
        return match_detections(output, objects, others)

    def measure(
        self, one: TrueObject, output: Instances, row: int | None
    ) -> tuple[dict[str, float], dict]:
        mask = np.zeros(one.rle["size"]) if row is None else output.pred_masks[row].numpy()
        rle = encode_mask(mask)
        ious = mask_and_boundary_iou(rle, one.rle, self.boundary_dilation)
        return dict(zip(self.columns, ious)), text_rle(rle)


def _add_qualities(model: nn.Module, raw: Instances) -> None:
    masks = raw.get("pred_masks") if raw.has("pred_masks") else None
    if not isinstance(masks, torch.Tensor) or masks.dim() != 4 or masks.shape[1] != 1:
        return  # masks in another form, of which no probabilities are known
    for kind in FREE_MASK_SCORES:
        raw.set(quality_field(kind), free_mask_quality(kind, masks.float()))
    head = model.roi_heads.mask_head  # type: ignore[union-attr]
    if getattr(head, "score", "") == "mask_iou" and raw.has("mask_scores"):
        quality = raw.mask_scores
        if raw.has("scores"):
            if getattr(head, "fold_score", False):
                return  # the class score alone is not known any more
            quality = quality / raw.scores.clamp(min=1e-12)
        raw.set(quality_field("mask_iou"), quality)
