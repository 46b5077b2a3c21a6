# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Evaluate predictions that were saved."""

from __future__ import annotations

import contextlib
import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO

from ..coco.index import GroundTruth
from ..errors import DataError
from .class_keypoints import oks_sigmas
from .evaluate import evaluate_records
from .records import read_records
from .settings import EvaluationSettings

__all__ = ["evaluate_results_file", "ground_truth_of", "load_ground_truth"]


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
        ConfigError: an argument cannot be.
    """
    path, metadata = _json_of(dataset)
    coco = load_ground_truth(path)
    sigmas = oks_sigmas(settings.pop("sigmas", None) or (), metadata, list(coco.cats.values()))
    rules = EvaluationSettings(tasks=tuple(tasks) if tasks else None, sigmas=sigmas, **settings)
    sizes = {image_id: (i["height"], i["width"]) for image_id, i in coco.imgs.items()}
    records = read_records(results, sizes)
    return evaluate_records(
        records, GroundTruth(coco, source=str(path)), rules, source=str(results)
    )


def ground_truth_of(dataset: str | os.PathLike) -> GroundTruth:
    """The ground truth of a registered data set, or of a COCO json.

    Raises:
        DataError: see :func:`load_ground_truth`.
    """
    path, _ = _json_of(dataset)
    return GroundTruth(load_ground_truth(path), source=path)


def _json_of(dataset: str | os.PathLike) -> tuple[str, dict]:
    if Path(dataset).is_file():
        return str(dataset), {}
    name = str(dataset)
    if name not in DatasetCatalog:
        raise DataError(f"'{name}' is neither a file nor a registered data set.")
    if not MetadataCatalog.get(name).get("json_file"):
        DatasetCatalog.get(name)  # some say it only when they are loaded
    metadata = MetadataCatalog.get(name).as_dict()
    if not metadata.get("json_file"):
        raise DataError(f"data set '{name}' has no json_file: name the json itself.")
    return PathManager.get_local_path(metadata["json_file"]), metadata


def load_ground_truth(path: str | os.PathLike) -> COCO:
    """Read a COCO json, quietly.

    Raises:
        DataError: it cannot be read, is damaged, or has no annotations.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(
            f"{path}: is no COCO ground truth ({type(error).__name__}: {error})."
        ) from error
    if "annotations" not in coco.dataset:
        raise DataError(f"{path}: has no 'annotations' to evaluate against.")
    return coco
