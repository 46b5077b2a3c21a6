# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Read the finished runs of a comparison and check that they are pairs."""

from __future__ import annotations

import json

import numpy as np

from ..errors import DataError
from .plan import Plan, Variant
from .results import Comparison, RunResult

__all__ = ["collect"]


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
    comparison = Comparison([v.name for v in plan.variants], runs, plan.seeds)
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
