# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What a task of the evaluation is, and the table of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...coco.index import Detections, GroundTruth
from ...errors import ConfigError, DataError
from ..overlaps import Overlaps
from ..settings import EvaluationSettings

__all__ = ["TASKS", "Task", "TaskInput", "choose_tasks", "named_tasks", "register_task"]


@dataclass(frozen=True)
class TaskInput:
    """What a task computes its numbers from.

    Attributes:
        overlaps: of all detections with all objects; computed on first use, shared by the tasks.
        settings: the rules.
        class_names: one a category, in the order of the json's ids.
    """

    overlaps: Overlaps
    settings: EvaluationSettings
    class_names: list[str]

    @property
    def ground_truth(self) -> GroundTruth:
        return self.overlaps.ground_truth

    @property
    def detections(self) -> Detections:
        return self.overlaps.detections

    def count_without_mask(self) -> dict[str, float]:
        """What every task of masks says of objects that have only a box; nothing if there are none."""
        number = self.ground_truth.num_without_mask
        return {"without_mask": float(number)} if number else {}


class Task(ABC):
    """One way to measure predictions. A new metric is a subclass in a file of this folder.

    Attributes:
        name: in configs, on the command line and in the results.
        needs: fields that every record must have.
        wants: fields that some record must have for the task to be chosen unasked.
        metrics: names of the numbers, without those of single classes.
    """

    name: str
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    metrics: tuple[str, ...]

    @abstractmethod
    def evaluate(self, data: TaskInput) -> dict[str, float]:
        """Metric -> value in percent, or a plain number for counts; NaN where nothing can be measured.

        A "-" in a key marks a value of one class, as in "AP-person".
        """

    def can_have(self, metric: str, class_names: Sequence[str] | None) -> bool:
        """Whether ``metric`` may be among the results.

        Args:
            class_names: None if they are not known.
        """
        if metric in self.metrics:
            return True
        of_all, _, name = metric.partition("-")
        known = class_names is None or any(
            name == class_name or name.startswith(f"{class_name}/") for class_name in class_names
        )
        return of_all in self.metrics and known

    def applies_to(self, records: Iterable[dict]) -> bool:
        """Whether the records contain the task's fields."""
        missing = {*self.needs, *self.wants}
        for record in records:
            missing -= record.keys()
            if not missing:
                return True
        return not missing

    def check(self, detections: Detections) -> None:
        """
        Raises:
            DataError: a record lacks a field; names the field and the image id.
        """
        for field in self.needs:
            for entry in detections.entries:
                if field not in entry["record"]:
                    raise DataError(
                        f"{detections.source}: task {self.name!r} needs '{field}', which a prediction "
                        f"for image id {entry['record']['image_id']!r} does not have."
                    )

    def nothing(self) -> dict[str, float]:
        """What Detectron2 reports for a model that found nothing at all: NaN."""
        return dict.fromkeys(self.metrics, float("nan"))

    def without_predictions(
        self, ground_truth: GroundTruth, settings: EvaluationSettings
    ) -> dict[str, float]:
        """:meth:`nothing`, or what is known without any prediction."""
        return self.nothing()

    @property
    def of_masks(self) -> bool:
        """It measures masks: objects that have only a box cannot be measured by it."""
        return "segmentation" in self.needs


# By name, in the order in which results are given.
TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Add a task to the table, which config, evaluator and command line choose from.

    Raises:
        ConfigError: there is another of its name.
    """
    if task.name in TASKS:
        raise ConfigError(f"two evaluation tasks are called {task.name!r}.")
    TASKS[task.name] = task
    return task


def named_tasks(names: Iterable[str]) -> list[Task]:
    """
    Raises:
        ConfigError: there is no task of a name.
    """
    for name in names:
        if name not in TASKS:
            raise ConfigError(f"task {name!r} is unknown; there are: {', '.join(TASKS)}.")
    return [TASKS[name] for name in names]


def choose_tasks(names: Iterable[str] | None, records: list[dict]) -> list[Task]:
    """The named tasks; without names, every task whose fields the records contain."""
    if names:
        return named_tasks(names)
    return [task for task in TASKS.values() if task.applies_to(records)] or named_tasks(["bbox"])
