# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Numbers computed from the finished runs of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..coco.areas import in_area
from .statistics import Interval, bootstrap_draws, mean, paired_bootstrap

__all__ = ["Comparison", "RunResult"]


@dataclass
class RunResult:
    """One finished run.

    Attributes:
        result: content of result.json.
        objects: columns of objects.json as arrays.
    """

    variant: str
    seed: int
    folder: Path
    result: dict
    objects: dict[str, np.ndarray]


@dataclass
class Comparison:
    """The runs finished so far; all numbers in tables and plots come from here.

    Attributes:
        names: of all variants of the plan, the baseline first.
        runs: finished runs, by variant and seed.
        seeds: how many are planned.
        costs: content of costs.json, by variant.
        unseen: ids of held-out classes.
        class_names: of the test set.
        warnings: what a reader of the tables must know.
    """

    names: list[str]
    runs: dict[str, dict[int, RunResult]]
    seeds: int
    costs: dict[str, dict] = field(default_factory=dict)
    unseen: list[int] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def baseline(self) -> str:
        return self.names[0]

    @property
    def done(self) -> list[str]:
        """Variants with a finished run."""
        return [name for name in self.names if self.runs.get(name)]

    # ---- AP: one number a run ----------------------------------------------------------------------

    def ap(self, name: str, metric: str, classes: Sequence[int] | None = None) -> dict[int, float]:
        """A metric such as "segm/AP" by seed, in percent; with ``classes``, the mean of their APs."""
        return {seed: self._ap(run, metric, classes) for seed, run in self.runs[name].items()}

    def _ap(self, run: RunResult, metric: str, classes: Sequence[int] | None) -> float:
        if classes is None:
            value = run.result["ap"].get(metric)
            return float("nan") if value is None else value
        task = metric.split("/")[0]
        keys = [f"{task}/AP-{self.class_names[k]}" for k in classes]
        values = [run.result["ap"].get(key) for key in keys]
        return mean([v for v in values if v is not None])  # classes without an object have no AP

    def paired(self, values: dict[int, float], base: dict[int, float]) -> list[float]:
        """Differences for the seeds that both have."""
        return [values[s] - base[s] for s in sorted(values) if s in base]

    # ---- At the true boxes: one number an object ---------------------------------------------------

    def chosen(self, objects: dict, area: str = "all", classes: Sequence[int] | None = None):
        """(N,) bool: objects of a size, and with ``classes`` of these classes."""
        keep = in_area(objects["area"], area)
        return keep if classes is None else keep & np.isin(objects["category"], list(classes))

    def at_true_boxes(
        self, name: str, measure: str, area: str = "all", classes: Sequence[int] | None = None
    ) -> dict[int, float]:
        """Mean of a column of objects.json by seed, in percent; "pixels" in pixels."""
        out = {}
        for seed, run in self.runs[name].items():
            values = run.objects[measure][self.chosen(run.objects, area, classes)]
            out[seed] = _factor(measure) * mean(values)
        return out

    def difference(
        self, name: str, measure: str, area: str = "all", classes: Sequence[int] | None = None
    ) -> Interval | None:
        """Difference to the baseline, object by object, in the unit of :meth:`at_true_boxes`.

        Returns:
            None for the baseline, and without a common seed.
        """
        own, base = self.runs.get(name, {}), self.runs.get(self.baseline, {})
        seeds = sorted(set(own) & set(base))
        if not seeds or name == self.baseline:
            return None
        keep = self.chosen(base[seeds[0]].objects, area, classes)
        images = base[seeds[0]].objects["image"][keep]
        rows = [own[s].objects[measure][keep] - base[s].objects[measure][keep] for s in seeds]
        draws = None
        if images.size:
            draws = bootstrap_draws(len(seeds), len(np.unique(images)))
        return paired_bootstrap(_factor(measure) * np.stack(rows), images, draws)

    # ---- One number for a variant ------------------------------------------------------------------

    def training(self, name: str, key: str) -> list[float]:
        """A number of training.json, from each run that has it."""
        values = [run.result["training"][key] for run in self.runs[name].values()]
        return [value for value in values if value is not None]

    def calibration(self, name: str, quality: str, key: str) -> list[float]:
        """A number of a score's calibration, from each run that has it."""
        found = (run.result["calibration"].get(quality) for run in self.runs[name].values())
        values = [entry[key] for entry in found if entry is not None]
        return [value for value in values if value is not None]


def _factor(measure: str) -> float:
    """Factor from objects.json to tables, which show percent; distances stay in pixels."""
    return 1.0 if measure == "pixels" else 100.0
