# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The measures of one trained keypoint head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

from ...data.skeletons import skeletons_of_dataset
from ...errors import ConfigError
from ...evaluation import MrcnnExtCOCOEvaluator
from ...files import write_json
from ..data import Checksum
from ..statistics import calibration, number_or_none
from .objects import (
    KEYPOINT_QUALITIES,
    at_true_boxes,
    match_poses,
    measures,
    posed_objects,
    predict_keypoints,
)

__all__ = ["evaluate_keypoints"]

_TASKS = ("bbox", "keypoints")
_COLUMNS = ("oks", "pixels", "error", "pck05", "pck10")


def evaluate_keypoints(
    model: nn.Module, cfg, records: list[dict], mapper, folder: Path
) -> tuple[dict, dict[str, list]]:
    """Detections, and keypoints at the true boxes; writes keypoints.json.

    Returns:
        what result.json gets, and the columns of objects.json.

    Raises:
        ConfigError: sigmas do not fit the data set's keypoints.
    """
    name = cfg.DATASETS.TEST[0]
    skeletons = skeletons_of_dataset(name)
    number = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    given = list(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    sigmas = np.array(given or (skeletons.sigmas if skeletons else ()))
    if len(sigmas) != number:
        raise ConfigError(
            f"there are {len(sigmas)} sigmas for {number} keypoints (TEST.KEYPOINT_OKS_SIGMAS, or the "
            f"skeletons of '{name}')."
        )
    own = None
    if skeletons is not None and skeletons.class_skeletons:
        own = skeletons.class_keypoints().numpy()
    evaluator = MrcnnExtCOCOEvaluator(
        name, _TASKS, False, str(folder / "inference"), kpt_oks_sigmas=given
    )
    evaluator.reset()
    boxes = Checksum()
    rows: list[dict[str, float]] = []
    for index, record in enumerate(records):
        inputs = mapper(record)
        output = predict_keypoints(model, inputs)
        boxes.add(output.pred_boxes.tensor.numpy())
        boxes.add(output.pred_classes.numpy())
        evaluator.process([inputs], [{"instances": output}])
        rows += match_poses(output, posed_objects(record), sigmas, own)
        log_every_n_seconds(20, f"Inference done {index + 1}/{len(records)}", n=20, name=__name__)
    scores = evaluator.evaluate()
    columns, found = _true_boxes(model, records, mapper, sigmas)
    write_json(folder / "keypoints.json", found, indent=None)
    detected = {
        "ap": {
            f"{task}/{key}": number_or_none(value)
            for task in _TASKS
            for key, value in scores.get(task, {}).items()
        },
        "boxes found": boxes.value,
        "calibration": calibration(rows, KEYPOINT_QUALITIES, "oks"),
        "sigmas": sigmas.tolist(),
        "classes": list(MetadataCatalog.get(name).get("thing_classes") or []),
    }
    return detected, columns


def _true_boxes(model: nn.Module, records, mapper, sigmas) -> tuple[dict[str, list], list]:
    columns: dict[str, list] = {
        key: [] for key in ("image_id", "index", "category", "area", *_COLUMNS)
    }
    keypoints = []
    for one, found in at_true_boxes(model, records, mapper):
        values = measures(one, found[:, :2], sigmas)
        for key in ("image_id", "index", "category", "area"):
            columns[key].append(getattr(one, key))
        for key in _COLUMNS:
            columns[key].append(round(values[key], 6))
        keypoints.append(np.asarray(found, dtype=float).round(3).tolist())
    return columns, keypoints
