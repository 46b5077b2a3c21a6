# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Evaluate predictions that were saved."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

from ..coco.index import GroundTruth, load_ground_truth
from ..coco.results import read_records
from ..data.registered import find_coco
from .evaluate import evaluate_records
from .settings import EvaluationSettings

__all__ = ["evaluate_results_file", "ground_truth_of"]


def evaluate_results_file(
    dataset: str | os.PathLike,
    results: str | os.PathLike,
    tasks: Sequence[str] | None = None,
    settings: EvaluationSettings | None = None,
    **rules,
) -> OrderedDict[str, dict[str, float]]:
    """Evaluate a coco_instances_results.json.

    Args:
        dataset: a COCO json, or the name of a registered data set that has one.
        results: predictions, with the categories' ids of that json.
        tasks: names of ``evaluation.tasks.TASKS``; None: every task whose fields the file has.
        settings: all of the rules as one object, instead of the other arguments.
        rules: other arguments of ``EvaluationSettings``.

    Returns:
        task -> metric -> value in percent.

    Raises:
        DataError: a file is damaged, or they do not belong together; names file and image id.
        ConfigError: an argument is invalid.
    """
    settings = settings or EvaluationSettings(tasks, **rules)
    files = find_coco(dataset)
    ground_truth = load_ground_truth(files.json_file)
    settings = settings.for_dataset(files.metadata or {}, ground_truth.categories)
    records = read_records(results, ground_truth.sizes)
    return evaluate_records(records, ground_truth, settings, source=str(results))


def ground_truth_of(dataset: str | os.PathLike) -> GroundTruth:
    """The ground truth of a registered data set, or of a COCO json.

    Raises:
        DataError: there is none, or it cannot be used; names file and id.
    """
    return load_ground_truth(find_coco(dataset).json_file)
