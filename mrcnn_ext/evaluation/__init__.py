# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""COCO and LVIS evaluation, with Boundary AP and mask quality."""

from .._moved import moved_names
from ..coco.index import GroundTruth
from .at_true_boxes import mask_quality_at_boxes
from .boundary import boundary_iou, boundary_of_rle, dilation_pixels
from .build import build_coco_evaluator
from .coco_evaluator import MrcnnExtCOCOEvaluator
from .evaluate import evaluate_records
from .results_file import evaluate_results_file
from .settings import EvaluationSettings

__all__ = [
    "EvaluationSettings",
    "GroundTruth",
    "MrcnnExtCOCOEvaluator",
    "boundary_iou",
    "boundary_of_rle",
    "build_coco_evaluator",
    "dilation_pixels",
    "evaluate_records",
    "evaluate_results_file",
    "mask_quality_at_boxes",
]

__getattr__ = moved_names(__name__, {"build_evaluation_hooks": "mrcnn_ext.engine"})
