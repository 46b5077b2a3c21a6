# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The finished runs of a comparison, and numbers made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..coco.areas import in_area
from ..errors import DataError
from .plan import Plan, Variant
from .statistics import Interval, bootstrap_draws, mean, paired_bootstrap

__all__ = ["Comparison", "RunResult", "collect"]


@dataclass
class RunResult:
    """One finished run.

    Attributes:
        result: of result.json.
        objects: columns of objects.json as arrays.
    """

    variant: str
    seed: int
    folder: Path
    result: dict
    objects: dict[str, np.ndarray]


@dataclass
class Comparison:
    """What is there so far; all numbers of tables and plots come from here.

    Attributes:
        names: of all variants of the plan, the baseline first.
        runs: finished ones by variant and seed.
        costs: of costs.json, by variant.
        unseen: held-out classes' ids.
        class_names: of the test set.
        warnings: what a reader must know.
        part: "mask" or "keypoint".
    """

    names: list[str]
    runs: dict[str, dict[int, RunResult]]
    seeds: int
    costs: dict[str, dict] = field(default_factory=dict)
    unseen: list[int] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    part: str = "mask"

    @property
    def baseline(self) -> str:
        return self.names[0]

    @property
    def done(self) -> list[str]:
        """Variants with a finished run."""
        return [name for name in self.names if self.runs.get(name)]

    # ---- AP: one number a run ----------------------------------------------------------------------

    def ap(self, name: str, metric: str, classes: Sequence[int] | None = None) -> dict[int, float]:
        """By seed: "segm/AP" …, in percent; of some classes, the mean of their APs."""
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
        """Differences of the seeds that both have."""
        return [values[s] - base[s] for s in sorted(values) if s in base]

    # ---- At the true boxes: one number an object ---------------------------------------------------

    def chosen(self, objects: dict, area: str = "all", classes: Sequence[int] | None = None):
        """(N,) bool: objects of a size and of some classes."""
        keep = in_area(objects["area"], area)
        return keep if classes is None else keep & np.isin(objects["category"], list(classes))

    def at_true_boxes(
        self, name: str, measure: str, area: str = "all", classes: Sequence[int] | None = None
    ) -> dict[int, float]:
        """By seed: the mean of a column of objects.json, in percent, or in pixels where it is."""
        out = {}
        for seed, run in self.runs[name].items():
            values = run.objects[measure][self.chosen(run.objects, area, classes)]
            out[seed] = _factor(measure) * mean(values)
        return out

    def difference(
        self, name: str, measure: str, area: str = "all", classes: Sequence[int] | None = None
    ) -> Interval | None:
        """To the baseline, object by object, in the same unit; None without a common seed."""
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
        values = [run.result["training"][key] for run in self.runs[name].values()]
        return [value for value in values if value is not None]

    def calibration(self, name: str, quality: str, key: str) -> list[float]:
        found = (run.result["calibration"].get(quality) for run in self.runs[name].values())
        values = [entry[key] for entry in found if entry is not None]
        return [value for value in values if value is not None]


def _factor(measure: str) -> float:
    """From a column of objects.json to what tables show: percent, but for distances in pixels."""
    return 1.0 if measure == "pixels" else 100.0


def collect(plan: Plan) -> Comparison:
    """The finished runs, checked to be pairs.

    Raises:
        DataError: runs of a seed saw other images, or were evaluated on other objects.
    """
    runs: dict[str, dict[int, RunResult]] = {variant.name: {} for variant in plan.variants}
    for variant, seed in plan.runs():
        run = _read(plan, variant, seed)
        if run is not None:
            runs[variant.name][seed] = run
    comparison = Comparison([v.name for v in plan.variants], runs, plan.seeds, part=plan.part.name)
    _check_pairs(plan, comparison)
    return comparison


def _read(plan: Plan, variant: Variant, seed: int) -> RunResult | None:
    folder = plan.folder(variant, seed)
    if not (folder / "result.json").is_file():
        return None
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        columns = json.loads((folder / "objects.json").read_text(encoding="utf-8"))
        objects = {key: np.asarray(values) for key, values in columns.items()}
        ids = {image_id: place for place, image_id in enumerate(dict.fromkeys(columns["image_id"]))}
        objects["image"] = np.array([ids[i] for i in columns["image_id"]], dtype=np.int64)
        result["training"]["seconds per iteration"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} has a damaged result ({error}); delete it to repeat the run."
        ) from error
    return RunResult(variant.name, seed, folder, result, objects)


def _check_pairs(plan: Plan, comparison: Comparison) -> None:
    for seed in range(1, plan.seeds + 1):
        there = [runs[seed] for runs in comparison.runs.values() if seed in runs]
        for other in there[1:]:
            first = there[0]
            what = _difference(first, other)
            if what:
                raise DataError(
                    f"{other.folder} and {first.folder} {what}: they are no pair. Delete one of them "
                    "and run again."
                )
            if plan.mode == "frozen":
                _warn_of_boxes(comparison, first, other)


def _difference(first: RunResult, other: RunResult) -> str:
    if first.result["training"]["images seen"] != other.result["training"]["images seen"]:
        return "saw different training images"
    for key in ("image_id", "index"):
        if not np.array_equal(first.objects[key], other.objects[key]):
            return "were evaluated on different objects"
    return ""


def _warn_of_boxes(comparison: Comparison, first: RunResult, other: RunResult) -> None:
    pair = f"{other.variant} and {first.variant}, seed {other.seed}"
    proposals = [run.result["training"]["proposals seen"] for run in (first, other)]
    if proposals[0] != proposals[1]:
        comparison.warnings.append(
            f"{pair}: their heads were trained with different proposals (other thread numbers or a "
            "GPU may do that in the last digits; keys that change sampling do it for good)."
        )
    if first.result["boxes found"] != other.result["boxes found"]:
        comparison.warnings.append(
            f"{pair}: different boxes were found, so their APs are not of masks alone."
        )
