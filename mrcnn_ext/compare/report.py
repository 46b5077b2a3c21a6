# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""results.json, results.md, report.html and pictures of what is there so far."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.skeletons import skeletons_of_dataset
from ..evaluation.boundary import mask_and_boundary_iou
from ..files import write_json
from ..page import data_uri, png_bytes, render_page, shown_plot
from . import plots, tables
from .checks import run_settings
from .cost import measure_costs
from .keypoint.pictures import KEYPOINT_COLORS, KEYPOINT_LEGEND, draw_keypoint_grid
from .kinds import MASK
from .mask.objects import box_as_mask, true_objects
from .mask.pictures import COLORS as PICTURE_COLORS
from .mask.pictures import LEGEND, choose, draw_grid
from .plan import Plan
from .results import Comparison, collect

__all__ = ["update_tables", "write_report"]


def update_tables(plan: Plan) -> list[tables.NamedTable]:
    """Write results.json and results.md of the runs that are there; return their tables.

    Raises:
        DataError: results are damaged or no pairs.
    """
    comparison, box = _comparison(plan)
    return _write_tables(plan, comparison, box)


def write_report(plan: Plan, *, with_costs: bool = True) -> list[tables.NamedTable]:
    """Measure costs, then write everything: tables, report.html, pictures/*.png.

    Returns:
        the tables.

    Raises:
        DataError: results are damaged or no pairs.
    """
    if with_costs:
        _measure(plan)
    comparison, box = _comparison(plan)
    made = _write_tables(plan, comparison, box)
    _write_page(plan, comparison, made)
    return made


def _comparison(plan: Plan) -> tuple[Comparison, dict | None]:
    comparison = collect(plan)
    cfg = plan.base_config(plan.iterations)
    name = cfg.DATASETS.TEST[0]
    records = DatasetCatalog.get(name)  # also fills in the names of classes
    comparison.class_names = list(MetadataCatalog.get(name).get("thing_classes") or [])
    comparison.unseen = plan.held_out_ids(cfg) if plan.held_out else []
    if plan.held_out and plan.detector:
        comparison.warnings.append(
            "the detector was given: whether masks of unseen classes trained its features is not "
            "known here."
        )
    stored = _stored_costs(plan)
    comparison.costs = stored["heads"] if stored else {}
    with_boxes = bool(comparison.done) and plan.part is MASK
    return comparison, _boxes_as_masks(plan, records) if with_boxes else None


# ------------------------------------------------------------------------------------------- costs


def _cost_key(plan: Plan) -> str:
    """Changes with anything that costs depend on: they are measured together or not at all."""
    settings = {v.name: run_settings(plan, v, 1) for v in plan.variants}
    text = json.dumps([settings, torch.get_num_threads()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _stored_costs(plan: Plan) -> dict | None:
    file = plan.output / "costs.json"
    if not file.is_file():
        return None
    stored = json.loads(file.read_text(encoding="utf-8"))
    return stored if stored.get("key") == _cost_key(plan) else None


def _measure(plan: Plan) -> None:
    if _stored_costs(plan) is None:
        heads = measure_costs({v.name: plan.config(v, 1) for v in plan.variants}, plan.part)
        write_json(plan.output / "costs.json", {"key": _cost_key(plan), "heads": heads})


def _boxes_as_masks(plan: Plan, records: list[dict]) -> dict[str, np.ndarray]:
    file = plan.output / "box_as_mask.json"
    if file.is_file():
        columns = json.loads(file.read_text(encoding="utf-8"))
    else:
        columns = {key: [] for key in ("area", "category", "iou", "boundary_iou")}
        dilation = plan.base_config().MRCNN_EXT.EVALUATION.BOUNDARY_DILATION
        for record in records:
            for one in true_objects(record):
                ious = mask_and_boundary_iou(box_as_mask(one), one.rle, dilation)
                values = (one.area, one.category, *ious)
                for key, value in zip(columns, values):
                    columns[key].append(value)
        write_json(file, columns, indent=None)
    return {key: np.asarray(values) for key, values in columns.items()}


# ------------------------------------------------------------------------------------------- files


def _write_tables(plan: Plan, c: Comparison, box: dict | None) -> list[tables.NamedTable]:
    made = tables.make_tables(c, box)
    text = "\n".join(tables.as_markdown(table) for table in made)
    if c.warnings:
        text = "\n".join(f"> {line}" for line in c.warnings) + "\n\n" + text
    part = plan.output / ".results.md"
    part.write_text(
        f"# Comparison of {plan.part.name} heads, {plan.mode}\n\n{text}", encoding="utf-8"
    )
    part.replace(plan.output / "results.md")
    write_json(
        plan.output / "results.json",
        {
            "mode": plan.mode,
            "baseline": c.baseline,
            "seeds": c.seeds,
            "finished": {name: sorted(c.runs[name]) for name in c.names},
            "warnings": c.warnings,
            "tables": [tables.as_json(table) for table in made],
            "runs": [run.result for runs in c.runs.values() for run in runs.values()],
        },
    )
    return made


def _write_page(plan: Plan, c: Comparison, made: list[tables.NamedTable]) -> None:
    folder = plan.output / "pictures"
    folder.mkdir(exist_ok=True)
    shown = {}
    if c.done:
        shown["sizes"] = shown_plot(folder, "sizes", lambda: plots.plot_sizes(c), "by size")
    if any(name in c.costs for name in c.done):
        shown["cost"] = shown_plot(
            folder,
            "accuracy_and_cost",
            lambda: plots.plot_accuracy_and_cost(c),
            "accuracy over cost",
        )
    if len(c.done) > 1 and c.runs[c.baseline]:
        shown["differences"] = shown_plot(
            folder, "differences", lambda: plots.plot_differences(c), "differences to the baseline"
        )
    grid = _grid(plan, c, folder)
    text = render_page(
        Path(__file__).parent / "template" / "compare.html",
        title=f"Comparison of {plan.part.name} heads",
        plan=plan,
        iterations=plan.base_config(plan.iterations).SOLVER.MAX_ITER,
        comparison=c,
        tables=made,
        plots=shown,
        grid=grid,
        legend=_legend(plan),
    )
    (plan.output / "report.html").write_text(text, encoding="utf-8")


def _legend(plan: Plan) -> list[tuple[str, str]]:
    if plan.part is MASK:
        return [(text, PICTURE_COLORS[kind]) for kind, text in LEGEND]
    return [(text, KEYPOINT_COLORS[kind]) for kind, text in KEYPOINT_LEGEND]


def _grid(plan: Plan, c: Comparison, folder: Path) -> str | None:
    """The picture of all heads on the same objects, as a data URI; also a PNG."""
    if not c.runs[c.baseline]:
        return None
    seed = min(c.runs[c.baseline])
    records = DatasetCatalog.get(plan.base_config(plan.iterations).DATASETS.TEST[0])
    objects = c.runs[c.baseline][seed].objects
    if plan.part is MASK:
        picture = draw_grid(c, records, choose(objects), seed)
    else:
        skeletons = skeletons_of_dataset(plan.base_config().DATASETS.TEST[0])
        choices = choose(objects, measure="oks")
        picture = draw_keypoint_grid(c, records, choices, skeletons, seed)
    if picture is None:
        return None
    data = png_bytes(picture)
    (folder / f"{plan.part.name}s.png").write_bytes(data)
    return data_uri(data, "png")
