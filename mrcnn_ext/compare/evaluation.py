# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The measures of one trained head: result.json and objects.json in its folder, and its answers."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

from ..data.train_loader import mapper_from_config
from ..deploy import can_optimize, optimize
from ..evaluation import MrcnnExtCOCOEvaluator
from ..evaluation.at_true_boxes import given_boxes
from ..files import write_json
from .data import Checksum
from .objects import TrueBox
from .statistics import calibration, number_or_none

__all__ = ["HeadEvaluation", "evaluate_run"]

ObjectsOf = Callable[[dict], Sequence[TrueBox]]


class HeadEvaluation(ABC):
    """How a kind of head is measured on a test set.

    Attributes:
        evaluator: of its detections.
        tasks: of the evaluator whose numbers are kept.
        columns: of objects.json, besides those that tell objects apart.
        qualities: scores whose calibration is measured, against the measure ``truth``.
    """

    evaluator: MrcnnExtCOCOEvaluator
    tasks: tuple[str, ...]
    columns: tuple[str, ...]
    qualities: tuple[str, ...]
    truth: str

    @abstractmethod
    def predict(self, model: nn.Module, inputs: dict, given: Instances | None = None) -> Instances:
        """A model's output for one image, on the CPU, in pixels of the image file.

        Args:
            model: a GeneralizedRCNN in evaluation mode.
            inputs: of one image, as a mapper makes them.
            given: boxes and classes, see :func:`~...evaluation.at_true_boxes.given_boxes`; None
                detects.
        """

    @abstractmethod
    def match(self, output: Instances, objects: Sequence[Any]) -> list[dict[str, float]]:
        """Detections whose box has an IoU of 0.5 or more with an object of their class.

        Returns:
            for each: ``truth``, and each of ``qualities`` that is known.
        """

    @abstractmethod
    def measure(self, one: Any, output: Instances, row: int | None) -> tuple[dict[str, float], Any]:
        """An answer at a true box.

        Args:
            row: of the object in ``output``; None: postprocessing dropped its box, which is empty.

        Returns:
            ``columns``, and the answer as json has it.
        """

    def details(self) -> dict:
        """What else result.json gets."""
        return {}


def evaluate_run(
    model: nn.Module,
    cfg,
    folder: Path,
    evaluation: HeadEvaluation,
    *,
    objects_of: ObjectsOf,
    module: nn.Module,
    answers: str,
    labels: dict,
    optimized: bool = True,
) -> dict:
    """Evaluate on the config's test set; write objects.json, the answers and result.json.

    Args:
        folder: of the run; has training.json.
        objects_of: gives what is measured in an image of a data set in Detectron2's format.
        module: the head.
        answers: name of the file with what it says at the true boxes.
        labels: for result.json.
        optimized: evaluate what :func:`mrcnn_ext.deploy.optimize` makes of the model, which is faster
            and the same up to rounding.

    Returns:
        what result.json holds: see docs/compare.md.
    """
    model.eval()
    if optimized and can_optimize(model):
        model = optimize(model, dtype="float32")
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    mapper = mapper_from_config(cfg, is_train=False)
    detected = _detections(model, records, mapper, evaluation, objects_of)
    columns, found = _at_true_boxes(model, records, mapper, evaluation, objects_of)
    write_json(folder / answers, found, indent=None)
    write_json(folder / "objects.json", columns, indent=None)
    result = {
        **labels,
        "parameters": sum(p.numel() for p in module.parameters()),
        "training": json.loads((folder / "training.json").read_text(encoding="utf-8")),
        "evaluation threads": torch.get_num_threads(),
        **detected,
        **evaluation.details(),
    }
    write_json(folder / "result.json", result)  # the last: a run that has it is finished
    return result


def _detections(
    model: nn.Module, records, mapper, evaluation: HeadEvaluation, objects_of: ObjectsOf
) -> dict:
    evaluation.evaluator.reset()
    boxes = Checksum()
    rows: list[dict[str, float]] = []
    for index, record in enumerate(records):
        inputs = mapper(record)
        output = evaluation.predict(model, inputs)
        boxes.add(output.pred_boxes.tensor.numpy())
        boxes.add(output.pred_classes.numpy())
        evaluation.evaluator.process([inputs], [{"instances": output}])
        rows += evaluation.match(output, objects_of(record))
        log_every_n_seconds(20, f"Inference done {index + 1}/{len(records)}", n=20, name=__name__)
    scores = evaluation.evaluator.evaluate()
    return {
        "ap": {
            f"{task}/{key}": number_or_none(value)
            for task in evaluation.tasks
            for key, value in scores.get(task, {}).items()
        },
        "boxes found": boxes.value,
        "calibration": calibration(rows, evaluation.qualities, evaluation.truth),
    }


def _at_true_boxes(
    model: nn.Module, records, mapper, evaluation: HeadEvaluation, objects_of: ObjectsOf
) -> tuple[dict[str, list], list]:
    """Columns of objects.json, and the answers."""
    identity = ("image_id", "index", "category", "area")
    columns: dict[str, list] = {key: [] for key in (*identity, *evaluation.columns)}
    answers = []
    for record in records:
        objects = objects_of(record)
        if not objects:
            continue
        inputs = mapper(record)
        given = given_boxes(inputs, [x.box for x in objects], [x.category for x in objects])
        output = evaluation.predict(model, inputs, given)
        rows = {place: row for row, place in enumerate(output.place.tolist())}
        for place, one in enumerate(objects):
            values, answer = evaluation.measure(one, output, rows.get(place))
            answers.append(answer)
            for key in identity:
                columns[key].append(getattr(one, key))
            for key in evaluation.columns:
                columns[key].append(round(values[key], 6))
    return columns, answers
