# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tables and a plot of the trainings that are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mrcnn_ext.coco.areas import COUNT_AREAS

from . import BASELINE, POOLER_TYPES
from .schedule import Plan, StudyError
from .shift import COLORS, ShiftErrors, shift_table
from .training import run_folder

__all__ = ["Run", "collect", "object_metrics", "paired", "write_report"]

# Half-open ranges: COCO's, and the lower half of "small" apart.
AREAS = {"all": COUNT_AREAS["all"], "tiny": (0, 16**2), **COUNT_AREAS}
AP_COLUMNS = tuple(
    (f"{kind}/{ap}", f"{title} {ap}")
    for kind, title in (("bbox", "box"), ("segm", "mask"))
    for ap in ("AP", "AP75", "APs", "APm")
)
_MEASURES = (("iou", "IoU"), ("boundary_iou", "boundary IoU"), ("contour_iou", "contour IoU"))
MASK_COLUMNS = tuple(
    (f"{measure}/{area}", f"{title}, {area}")
    for measure, title in _MEASURES
    for area in ("all", "tiny", "small", "medium")
)
OFFSET_COLUMNS = (
    ("dx/all", "dx"),
    ("dy/all", "dy"),
    ("dx/tiny", "dx, tiny"),
    ("dy/tiny", "dy, tiny"),
    ("offset/all", "distance"),
    ("offset/tiny", "distance, tiny"),
    ("empty/all", "empty masks, %"),
)
SWAP_COLUMNS = (
    *((f"iou/{area}", f"IoU, {area}") for area in ("all", "tiny", "small", "medium")),
    ("contour_iou/all", "contour IoU, all"),
    ("dx/all", "dx"),
    ("dy/all", "dy"),
)
PLOTTED = (
    ("bbox/AP", "box AP"),
    ("segm/AP", "mask AP"),
    ("segm/APs", "mask APs"),
    ("segm/APm", "mask APm"),
    ("iou/tiny", "IoU, tiny"),
    ("iou/small", "IoU, small"),
    ("iou/medium", "IoU, medium"),
    ("boundary_iou/all", "boundary IoU"),
    ("contour_iou/all", "contour IoU"),
)


@dataclass(frozen=True)
class Run:
    """A training's measures.

    Attributes:
        same: what must be equal among the runs of a seed: weights before it, images seen.
        metrics: AP in %, mask measures at the true boxes in %, offsets in pixels.
    """

    pooler_type: str
    seed: int
    same: tuple[int, int]
    metrics: dict[str, float]


def object_metrics(objects: dict[str, list[float]]) -> dict[str, float]:
    """Means over the objects of each size, "MEASURE/SIZE"; NaN where there are none."""
    columns = {key: np.array(values, dtype=float) for key, values in objects.items()}
    area = columns["area"]
    empty = np.isnan(columns["dx"])
    offset = np.hypot(columns["dx"], columns["dy"])
    out: dict[str, float] = {}
    for name, (low, high) in AREAS.items():
        chosen = (area >= low) & (area < high)
        out[f"number/{name}"] = int(chosen.sum())
        for measure, _ in _MEASURES:
            out[f"{measure}/{name}"] = 100 * _mean(columns[measure][chosen])
        out[f"empty/{name}"] = 100 * _mean(empty[chosen])
        drawn = chosen & ~empty
        for measure, values in (("dx", columns["dx"]), ("dy", columns["dy"]), ("offset", offset)):
            out[f"{measure}/{name}"] = _mean(values[drawn])
    return out


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds, NaN for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def collect(plan: Plan) -> list[Run]:
    """The runs that have a result.

    Raises:
        StudyError: runs of a seed did not start from the same weights or saw other images.
    """
    runs = []
    for pooler_type, seed in plan.runs():
        file = run_folder(plan.output, pooler_type, seed) / "result.json"
        if file.is_file():
            result = json.loads(file.read_text())
            metrics = {**result["ap"], **object_metrics(result["objects"])}
            same = (result["weights_before"], result["images_seen"])
            runs.append(Run(pooler_type, seed, same, metrics))
    for seed in {run.seed for run in runs}:
        if len({run.same for run in runs if run.seed == seed}) > 1:
            raise StudyError(
                f"the runs of seed {seed} in {plan.output / 'runs'} started from different weights "
                "or saw different images: they are not pairs. Delete them and train again."
            )
    return runs


def collect_swapped(plan: Plan, runs: Sequence[Run]) -> list[Run]:
    """The baseline's models as they were trained and with other poolers, by pooler and seed."""
    out = []
    for run in runs:
        file = run_folder(plan.output, run.pooler_type, run.seed) / "swapped.json"
        if run.pooler_type == BASELINE and file.is_file():
            out.append(run)
            for kind, objects in json.loads(file.read_text()).items():
                out.append(Run(kind, run.seed, run.same, object_metrics(objects)))
    return out


def _values(runs: Sequence[Run], pooler_type: str, metric: str) -> dict[int, float]:
    return {run.seed: run.metrics[metric] for run in runs if run.pooler_type == pooler_type}


def paired(runs: Sequence[Run], pooler_type: str, metric: str) -> dict[int, float]:
    """By seed, a pooler's metric minus the baseline's."""
    own, base = _values(runs, pooler_type, metric), _values(runs, BASELINE, metric)
    return {seed: own[seed] - base[seed] for seed in own if seed in base}


def _cell(values: Sequence[float], digits: int, sign: bool = False) -> str:
    if not values:
        return "-"
    text = f"{round(_mean(np.array(values)), digits) + 0.0:{'+' if sign else ''}.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {_spread(values):.{digits}f}"


def _table(runs: Sequence[Run], columns: Sequence[tuple[str, str]], digits: int) -> str:
    """Means over seeds, and differences to the baseline of the same seed; ± is over seeds.

    One row a measure: pages are narrower than there are measures.
    """
    others = POOLER_TYPES[:-1]
    head = [*POOLER_TYPES, *(f"{kind} minus {BASELINE}" for kind in others)]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for metric, title in columns:
        cells = [_cell([*_values(runs, k, metric).values()], digits) for k in POOLER_TYPES]
        cells += [_cell([*paired(runs, k, metric).values()], digits, sign=True) for k in others]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot_paired(runs: Sequence[Run], file: Path) -> None:
    """The differences to the baseline: a dot for each seed, a bar for their mean."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for offset, pooler_type in zip((-0.17, 0.17), POOLER_TYPES[:-1]):
        color = COLORS[pooler_type]
        for place, (metric, _) in enumerate(PLOTTED):
            values = list(paired(runs, pooler_type, metric).values())
            if values:
                label = f"{pooler_type} minus {BASELINE}" if place == 0 else None
                at = place + offset
                axis.bar(at, np.mean(values), width=0.3, color=color, alpha=0.35, label=label)
                axis.plot([at] * len(values), values, "o", color=color, ms=6)
    axis.axhline(0, color="black", lw=1)
    axis.axvline(3.5, color="gray", lw=1, ls=":")
    axis.set_xticks(range(len(PLOTTED)), [title for _, title in PLOTTED], rotation=25, ha="right")
    axis.set_ylabel("difference (percentage points)")
    axis.set_title("Paired differences: dots are seeds, bars their mean; right: at the true boxes")
    axis.grid(axis="y", alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
    figure.savefig(str(file), dpi=100)


def write_report(plan: Plan) -> str:
    """Write results.json, tables.md and the plot from what is there; return the tables."""
    runs = collect(plan)
    shift_file = plan.output / "shift.json"
    shift = json.loads(shift_file.read_text()) if shift_file.is_file() else []
    text = "## Where the poolers look, in pixels\n\n"
    text += shift_table([ShiftErrors(**row) for row in shift]) if shift else "Not measured.\n"
    counts = ", ".join(f"{k} {len(_values(runs, k, 'bbox/AP'))}" for k in POOLER_TYPES)
    text += f"\n## Trainings: {counts} of {plan.seeds} seeds\n\n"
    text += "Mean ± standard deviation over seeds; differences are between runs of the same seed.\n"
    if runs:
        number = runs[0].metrics
        objects = ", ".join(f"{name} {number[f'number/{name}']}" for name in AREAS)
        text += f"\nAverage precision, %\n\n{_table(runs, AP_COLUMNS, 1)}"
        text += f"\nMasks at the true boxes, % (objects: {objects})\n\n"
        text += f"{_table(runs, MASK_COLUMNS, 1)}"
        text += "\nCentre of the mask minus the true one at the true boxes, pixels\n\n"
        text += f"{_table(runs, OFFSET_COLUMNS, 2)}"
        swapped = collect_swapped(plan, runs)
        if swapped:
            text += f"\nModels trained with {BASELINE}, other poolers put in, at the true boxes\n\n"
            text += f"{_table(swapped, SWAP_COLUMNS, 1)}"
        plot_paired(runs, plan.output / "paired_differences.png")
    (plan.output / "tables.md").write_text(text, encoding="utf-8")
    (plan.output / "results.json").write_text(json.dumps(_results(plan, runs, shift), indent=1))
    return text


def _results(plan: Plan, runs: Sequence[Run], shift: list[dict]) -> dict:
    metrics = sorted({metric for run in runs for metric in run.metrics})
    differences = {
        kind: {metric: paired(runs, kind, metric) for metric in metrics}
        for kind in POOLER_TYPES[:-1]
    }
    return {
        "iterations": plan.iterations,
        "opts": plan.opts,
        "shift": shift,
        "runs": _rows(runs),
        f"{BASELINE} models with each pooler": _rows(collect_swapped(plan, runs)),
        f"minus {BASELINE}, by seed": differences,
    }


def _rows(runs: Sequence[Run]) -> list[dict]:
    return [{"pooler_type": r.pooler_type, "seed": r.seed, **r.metrics} for r in runs]
