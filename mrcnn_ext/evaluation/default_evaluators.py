# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's evaluator for each kind of data set, for trainers that have none of their own."""

from __future__ import annotations

import os
from collections.abc import Callable

from detectron2 import evaluation as d2
from detectron2.data import MetadataCatalog

from ..errors import ConfigError

__all__ = ["default_evaluator"]

# evaluator_type -> builders of evaluators, each given the data set's name and the output folder
_BUILDERS: dict[str, list[Callable]] = {
    "coco": [lambda name, folder: d2.COCOEvaluator(name, output_dir=folder)],
    "coco_panoptic_seg": [
        lambda name, folder: d2.SemSegEvaluator(name, distributed=True, output_dir=folder),
        lambda name, folder: d2.COCOEvaluator(name, output_dir=folder),
        lambda name, folder: d2.COCOPanopticEvaluator(name, folder),
    ],
    "sem_seg": [lambda name, folder: d2.SemSegEvaluator(name, distributed=True, output_dir=folder)],
    "lvis": [lambda name, folder: d2.LVISEvaluator(name, output_dir=folder)],
    "pascal_voc": [lambda name, folder: d2.PascalVOCDetectionEvaluator(name)],
    "cityscapes_instance": [lambda name, folder: d2.CityscapesInstanceEvaluator(name)],
    "cityscapes_sem_seg": [lambda name, folder: d2.CityscapesSemSegEvaluator(name)],
}


def default_evaluator(cfg, dataset_name: str, output_folder: str | None = None):
    """The evaluator, or evaluators, that Detectron2 has for the data set's ``evaluator_type``.

    Args:
        cfg: a Detectron2 config.
        dataset_name: a registered data set.
        output_folder: where results are written; by default OUTPUT_DIR/inference.

    Raises:
        ConfigError: there is none for it.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in _BUILDERS:
        raise ConfigError(
            f"DATASETS.TEST names '{dataset_name}', whose evaluator_type is {kind!r}; expected one of "
            f"{', '.join(_BUILDERS)}."
        )
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    evaluators = [build(dataset_name, folder) for build in _BUILDERS[kind]]
    return evaluators[0] if len(evaluators) == 1 else d2.DatasetEvaluators(evaluators)
