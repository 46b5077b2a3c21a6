# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""results.json, results.md, report.html and pictures of what is there so far."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..files import write_json, write_text
from ..page import ShownPlot, data_uri, png_bytes, render_page, shown_plot
from . import plots
from .collect import collect
from .cost import stored_costs, update_costs
from .forms import as_json, as_markdown
from .pictures import draw_grid
from .plan import Plan
from .results import Comparison
from .tables import NamedTable

__all__ = ["update_tables", "write_report"]

_TEMPLATE = Path(__file__).parent / "template" / "compare.html"


def update_tables(plan: Plan) -> list[NamedTable]:
    """Write results.json and results.md of the runs that are there; return their tables.

    Raises:
        DataError: results are damaged or no pairs.
    """
    return _write_tables(plan, _comparison(plan))


def write_report(
    plan: Plan, *, with_costs: bool = True, check: Callable[[], None] = lambda: None
) -> list[NamedTable]:
    """Measure costs, then write everything: tables, report.html, pictures/*.png.

    Args:
        check: called between the steps; may raise.

    Returns:
        the tables.

    Raises:
        DataError: results are damaged or no pairs.
    """
    if with_costs:
        update_costs(plan, check)
    comparison = _comparison(plan)
    made = _write_tables(plan, comparison)
    check()
    _write_page(plan, comparison, made)
    return made


def _comparison(plan: Plan) -> Comparison:
    comparison = collect(plan)
    cfg = plan.base_config(plan.iterations)
    name = cfg.DATASETS.TEST[0]
    DatasetCatalog.get(name)  # fills in the names of classes
    comparison.class_names = list(MetadataCatalog.get(name).get("thing_classes") or [])
    comparison.unseen = plan.held_out_ids(cfg) if plan.held_out else []
    if plan.held_out and plan.detector:
        comparison.warnings.append(
            "the detector was given: whether masks of unseen classes trained its features is not "
            "known here."
        )
    comparison.costs = stored_costs(plan)
    return comparison


def _write_tables(plan: Plan, c: Comparison) -> list[NamedTable]:
    reference = None
    if c.done:
        cfg = plan.base_config()
        reference = plan.kind.reference(plan.output, cfg, DatasetCatalog.get(cfg.DATASETS.TEST[0]))
    made = plan.kind.tables(c, reference)
    text = "\n".join(as_markdown(table) for table in made)
    if c.warnings:
        text = "\n".join(f"> {line}" for line in c.warnings) + "\n\n" + text
    title = f"# Comparison of {plan.kind.name} heads, {plan.mode}"
    write_text(plan.output / "results.md", f"{title}\n\n{text}")
    write_json(
        plan.output / "results.json",
        {
            "mode": plan.mode,
            "baseline": c.baseline,
            "seeds": c.seeds,
            "finished": {name: sorted(c.runs[name]) for name in c.names},
            "warnings": c.warnings,
            "tables": [as_json(table) for table in made],
            "runs": [run.result for runs in c.runs.values() for run in runs.values()],
        },
    )
    return made


def _write_page(plan: Plan, c: Comparison, made: list[NamedTable]) -> None:
    folder = plan.output / "pictures"
    folder.mkdir(exist_ok=True)
    kind = plan.kind
    text = render_page(
        _TEMPLATE,
        title=f"Comparison of {kind.name} heads",
        plan=plan,
        kind=kind,
        iterations=plan.base_config(plan.iterations).SOLVER.MAX_ITER,
        comparison=c,
        tables=made,
        plots=_plots(plan, c, folder),
        grid=_grid(plan, c, folder),
        legend=[(text, kind.colors[entry]) for entry, text in kind.legend],
    )
    write_text(plan.output / "report.html", text)


def _plots(plan: Plan, c: Comparison, folder: Path) -> dict[str, ShownPlot]:
    """By the title of the table that they stand under; those that would show something."""
    wanted = {}
    if c.done:
        wanted["By size"] = ("sizes", plots.plot_sizes, "by size")
    if any(name in c.costs for name in c.done):
        wanted["Cost"] = ("accuracy_and_cost", plots.plot_accuracy_and_cost, "accuracy over cost")
    if len(c.done) > 1 and c.runs[c.baseline]:
        text = "differences to the baseline"
        wanted["differences"] = ("differences", plots.plot_differences, text)
    return {
        title: shown_plot(folder, name, partial(draw, c, plan.kind), text)
        for title, (name, draw, text) in wanted.items()
    }


def _grid(plan: Plan, c: Comparison, folder: Path) -> str | None:
    """The picture of all heads on the same objects, as a data URI; also a PNG."""
    cfg = plan.base_config(plan.iterations)
    picture = draw_grid(c, plan.kind, cfg, DatasetCatalog.get(cfg.DATASETS.TEST[0]))
    if picture is None:
        return None
    data = png_bytes(picture)
    (folder / f"{plan.kind.name}s.png").write_bytes(data)
    return data_uri(data, "png")
