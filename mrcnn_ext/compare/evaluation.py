# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The measures of one trained head: result.json, objects.json and masks.json in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

from ..evaluation import MrcnnExtCOCOEvaluator
from ..evaluation.boundary import mask_and_boundary_iou
from ..fileio import write_json
from .data import Checksum
from .objects import (
    QUALITIES,
    masks_at_true_boxes,
    match_detections,
    predict,
    true_objects,
)
from .statistics import mean, rank_correlation
from .training import mask_head

__all__ = ["calibration", "evaluate_run"]

_TASKS = ("bbox", "segm", "boundary")


def evaluate_run(model: nn.Module, cfg, folder: Path, *, seed: int, variant: str) -> dict:
    """Evaluate on the config's test set.

    Returns:
        what result.json holds: see docs/compare.md.
    """
    model.eval()
    name = cfg.DATASETS.TEST[0]
    records = DatasetCatalog.get(name)
    mapper = DatasetMapper(cfg, is_train=False)
    dilation = cfg.MRCNN_EXT.EVALUATION.BOUNDARY_DILATION
    evaluator = MrcnnExtCOCOEvaluator(
        name, _TASKS, False, str(folder / "inference"), boundary_dilation=dilation
    )
    detected = _detections(model, records, mapper, evaluator)
    columns, masks = _true_boxes(model, records, mapper, dilation)
    write_json(folder / "masks.json", masks, indent=None)
    write_json(folder / "objects.json", columns, indent=None)
    result = {
        "variant": variant,
        "seed": seed,
        "head": cfg.MODEL.ROI_MASK_HEAD.NAME,
        "parameters": sum(p.numel() for p in mask_head(model).parameters()),
        "training": json.loads((folder / "training.json").read_text(encoding="utf-8")),
        "evaluation threads": torch.get_num_threads(),
        **detected,
    }
    write_json(folder / "result.json", result)  # the last: a run that has it is finished
    return result


def _detections(model: nn.Module, records, mapper, evaluator: MrcnnExtCOCOEvaluator) -> dict:
    evaluator.reset()
    boxes = Checksum()
    rows: list[dict[str, float]] = []
    for index, record in enumerate(records):
        inputs = mapper(record)
        output = predict(model, inputs)
        boxes.add(output.pred_boxes.tensor.numpy())
        boxes.add(output.pred_classes.numpy())
        evaluator.process([inputs], [{"instances": output}])
        rows += match_detections(output, true_objects(record))
        log_every_n_seconds(20, f"Inference done {index + 1}/{len(records)}", n=20, name=__name__)
    scores = evaluator.evaluate()
    return {
        "ap": {
            f"{task}/{key}": _number(value)
            for task in _TASKS
            for key, value in scores.get(task, {}).items()
        },
        "boxes found": boxes.value,
        "calibration": calibration(rows),
    }


def _true_boxes(
    model: nn.Module, records, mapper, boundary_dilation: float
) -> tuple[dict[str, list], list]:
    columns: dict[str, list] = {
        key: [] for key in ("image_id", "index", "category", "area", "iou", "boundary_iou")
    }
    masks = []
    for one, rle in masks_at_true_boxes(model, records, mapper):
        iou, boundary = mask_and_boundary_iou(rle, one.rle, boundary_dilation)
        values = (one.image_id, one.index, one.category, one.area, iou, boundary)
        for key, value in zip(columns, values):
            columns[key].append(round(value, 6) if isinstance(value, float) else value)
        masks.append({"size": rle["size"], "counts": rle["counts"].decode("ascii")})
    return columns, masks


def _number(value: float) -> float | None:
    """As json has it: None for NaN."""
    return None if value != value else float(value)


def calibration(rows: list[dict[str, float]]) -> dict[str, dict]:
    """How well each quality tells the mask's IoU.

    Args:
        rows: with "iou" and some of ``QUALITIES``, one for each matched detection.

    Returns:
        by quality: "error", the mean of \\|quality - IoU\\|; "rank correlation", Spearman's, None
        where there is none; "number".
    """
    out = {}
    for kind in QUALITIES:
        pairs = np.array([(r[kind], r["iou"]) for r in rows if kind in r]).reshape(-1, 2)
        if len(pairs):
            out[kind] = {
                "error": mean(np.abs(pairs[:, 0] - pairs[:, 1])),
                "rank correlation": _number(rank_correlation(pairs[:, 0], pairs[:, 1])),
                "number": len(pairs),
            }
    return out
