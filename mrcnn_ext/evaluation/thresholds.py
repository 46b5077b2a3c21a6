# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The file of score thresholds: written by an evaluation, read by predict."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..coco.index import Detections, load_ground_truth
from ..coco.read import read_json
from ..coco.results import read_records
from ..coco.values import is_finite
from ..data.registered import find_coco
from ..errors import DataError
from ..files import write_json
from ..messages import describe, shorten
from .overlaps import Overlaps
from .settings import EvaluationSettings
from .tasks.operating_point import OperatingPoints, find_operating_points
from .tasks.task import TaskInput

__all__ = ["Thresholds", "find_thresholds", "read_thresholds", "thresholds_content"]
__all__ += ["write_thresholds"]

_FORMAT = "mrcnn_ext thresholds 1"


@dataclass(frozen=True)
class Thresholds:
    """Score thresholds by the name of the class.

    Attributes:
        source: name of the file, for messages.
        default: of classes without one of their own.
        of_class: None: the default.
    """

    source: str
    default: float
    of_class: Mapping[str, float | None]

    @property
    def lowest(self) -> float:
        return min([self.default, *(v for v in self.of_class.values() if v is not None)])

    def for_classes(self, names: Sequence[str] | None, number: int | None) -> list[float]:
        """One for each class of a model.

        Args:
            names: of the model's classes; None: they are not known.
            number: of the model's classes, if it is known.

        Raises:
            DataError: the names are needed and not known, or the file has classes that the model does
                not have; names them.
        """
        if names is None:
            if number == len(self.of_class) == 1:  # it can be no other
                names = list(self.of_class)
            else:
                raise DataError(
                    f"{self.source}: has thresholds by class, but the names of the model's classes "
                    "are not known; say them with --classes."
                )
        unknown = [name for name in self.of_class if name not in names]
        if unknown:
            raise DataError(
                f"{self.source}: has thresholds of classes that the model does not have: "
                f"{shorten(unknown)}; its classes are {shorten(names)}."
            )
        found = [self.of_class.get(name) for name in names]
        return [self.default if value is None else value for value in found]


def find_thresholds(
    dataset: str | os.PathLike,
    results: str | os.PathLike,
    *,
    precision: float | None = None,
    boxes_only: bool = False,
) -> tuple[OperatingPoints, list[str]]:
    """Thresholds of the classes, from a file of predictions.

    Args:
        dataset: a COCO json, or the name of a registered data set.
        results: predictions, see :func:`~mrcnn_ext.coco.results.read_records`.
        precision: wanted, in 0 … 1; None: the best F1.
        boxes_only: measure masks where some objects have only a box, see ``EvaluationSettings``.

    Returns:
        the thresholds, and the names of the classes.

    Raises:
        DataError: a file is damaged, or they do not belong together; names file and image id.
        ConfigError: the precision is not in 0 … 1.
    """
    files = find_coco(dataset)
    truth = load_ground_truth(files.json_file)
    settings = EvaluationSettings(boxes_only=boxes_only)
    found = Detections(read_records(results, truth.sizes), truth, str(results))
    for entry in found.entries:
        if "bbox" not in entry["record"]:
            raise DataError(
                f"{results}: a prediction for image id {describe(entry['record']['image_id'])} has "
                "no 'bbox', which thresholds need."
            )
    data = TaskInput(Overlaps(truth, found, boxes_only=boxes_only), settings, truth.class_names)
    return find_operating_points(data, precision=precision), truth.class_names


def thresholds_content(points: OperatingPoints, names: Sequence[str]) -> dict:
    """What the file holds; NaN is None."""
    classes = {}
    for name, point in zip(names, points.of_class):
        classes[name] = None if point is None else _rounded(vars(point))
    return {
        "format": _FORMAT,
        "chosen_by": "f1" if points.precision is None else {"precision": points.precision},
        "task": points.task,
        "default": points.overall.threshold,
        "classes": classes,
        "all_classes": _rounded({k: v for k, v in vars(points.total).items() if k != "threshold"}),
        "confusion": {
            "rows": "the object's class; last: none, a false detection",
            "columns": "the detection's class; last: none, a missed object",
            "classes": list(names),
            "matrix": points.confusion.tolist(),
        },
    }


def write_thresholds(
    path: str | os.PathLike, points: OperatingPoints, names: Sequence[str]
) -> None:
    """
    Raises:
        DataError: two classes have the same name, or the file cannot be written.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise DataError(f"--thresholds: classes have the same name: {shorten(twice)}.")
    for point in (points.overall, *points.of_class):
        if point is not None:
            _score(point.threshold, f"--thresholds {path}: the scores are not usable")
    try:
        write_json(path, thresholds_content(points, names))
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"--thresholds {path} cannot be written: {reason}.") from error


def read_thresholds(path: str | os.PathLike) -> Thresholds:
    """
    Raises:
        DataError: it is no such file, or a threshold is not in 0 … 1; names file and class.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f'{path}: is no file of thresholds, which has "format": "{_FORMAT}".')
    classes = content.get("classes")
    if not isinstance(classes, dict):
        raise DataError(f"{path}: 'classes' is {describe(classes)}, expected an object by class.")
    of_class: dict[str, float | None] = {}
    for name, entry in classes.items():
        value = entry.get("threshold") if isinstance(entry, dict) else entry
        of_class[name] = None if entry is None else _score(value, f"{path}: class {name!r}")
    return Thresholds(str(path), _score(content.get("default"), f"{path}: 'default'"), of_class)


def _score(value, where: str) -> float:
    if not is_finite(value) or not 0 <= value <= 1:
        raise DataError(
            f"{where}: the threshold is {describe(value)}, expected a number in 0 to 1."
        )
    return float(value)


def _rounded(values: Mapping) -> dict:
    def one(name: str, value):
        if value != value:
            return None
        return round(value, 6) if isinstance(value, float) and name != "threshold" else value

    return {name: one(name, value) for name, value in values.items()}
