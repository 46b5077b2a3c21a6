# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The measures of one trained head: result.json and objects.json in its folder, and what it drew."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

from ...evaluation import MrcnnExtCOCOEvaluator
from ...evaluation.boundary import mask_and_boundary_iou
from ...files import write_json
from ..data import Checksum
from ..keypoint.evaluation import evaluate_keypoints
from ..kinds import MASK, HeadKind
from ..statistics import calibration, number_or_none
from .objects import QUALITIES, masks_at_true_boxes, match_detections, predict, true_objects

__all__ = ["evaluate_masks", "evaluate_run"]

_TASKS = ("bbox", "segm", "boundary")


def evaluate_run(
    model: nn.Module, cfg, folder: Path, *, seed: int, variant: str, part: HeadKind = MASK
) -> dict:
    """Evaluate on the config's test set.

    Returns:
        what result.json holds: see docs/compare.md.
    """
    model.eval()
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    mapper = DatasetMapper(cfg, is_train=False)
    evaluate = evaluate_masks if part is MASK else evaluate_keypoints
    detected, columns = evaluate(model, cfg, records, mapper, folder)
    write_json(folder / "objects.json", columns, indent=None)
    result = {
        "variant": variant,
        "seed": seed,
        "head": cfg.MODEL[part.node].NAME,
        "parameters": sum(p.numel() for p in part.head(model).parameters()),
        "training": json.loads((folder / "training.json").read_text(encoding="utf-8")),
        "evaluation threads": torch.get_num_threads(),
        **detected,
    }
    write_json(folder / "result.json", result)  # the last: a run that has it is finished
    return result


def evaluate_masks(
    model: nn.Module, cfg, records: list[dict], mapper, folder: Path
) -> tuple[dict, dict[str, list]]:
    """Detections, and masks at the true boxes; writes masks.json.

    Returns:
        what result.json gets, and the columns of objects.json.
    """
    dilation = cfg.MRCNN_EXT.EVALUATION.BOUNDARY_DILATION
    evaluator = MrcnnExtCOCOEvaluator(
        cfg.DATASETS.TEST[0],
        _TASKS,
        False,
        str(folder / "inference"),
        boundary_dilation=dilation,
    )
    detected = _detections(model, records, mapper, evaluator)
    columns, masks = _true_boxes(model, records, mapper, dilation)
    write_json(folder / "masks.json", masks, indent=None)
    return detected, columns


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
            f"{task}/{key}": number_or_none(value)
            for task in _TASKS
            for key, value in scores.get(task, {}).items()
        },
        "boxes found": boxes.value,
        "calibration": calibration(rows, QUALITIES, "iou"),
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
