# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The report as one HTML file, and its pictures as PNG."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..coco.index import GroundTruth
from ..page import (
    ShownPlot,
    data_uri,
    jpeg_bytes,
    line_color,
    number,
    png_bytes,
    render_page,
    shown_plot,
)
from ..visualization.colors import COLORS
from ..visualization.sheets import legend_strip, sheet
from . import plots, tables
from .analysis import Analysis
from .examples import LEGEND, Example

__all__ = ["write_page"]

_FOLDER = "report_pictures"
_TASKS = {"bbox": "boxes", "segm": "masks"}


def write_page(
    folder: Path,
    truth: GroundTruth,
    analyses: list[Analysis],
    examples: list[Example],
    *,
    task: str,
    max_dets: int,
    title: str | None,
    given_threshold: float | None,
    notes: list[str],
) -> None:
    """Write ``report.html`` and ``report_pictures/`` to ``folder``.

    Args:
        notes: sentences on what is not as one may expect.
    """
    (folder / _FOLDER).mkdir()
    text = render_page(
        Path(__file__).parent / "template" / "report.html",
        title=title or f"{truth.name}: {_TASKS[task]}",
        truth=truth,
        task=_TASKS[task],
        max_dets=max_dets,
        given_threshold=given_threshold,
        notes=notes,
        analyses=analyses,
        cards=_cards(analyses),
        plots=_plots(folder, truth, analyses),
        tables=_tables(truth, analyses),
        examples=[_shown_example(folder, e) for e in examples],
        legend=[
            (kind, text, COLORS[kind])
            for kind, text in LEGEND
            if any(kind in e.kinds for e in examples)
        ],
        legend_colors=COLORS,
        has_images=truth.image_root is not None,
    )
    (folder / "report.html").write_text(text, encoding="utf-8")


def _cards(analyses: list[Analysis]) -> list[dict]:
    cards = []
    for index, analysis in enumerate(analyses):
        curves, base = analysis.curves, analyses[0].curves
        others = (("AP50", curves.ap(0.5)), ("AP75", curves.ap(0.75)))
        cards.append(
            {
                "name": analysis.name,
                "color": line_color(index),
                "ap": number(curves.ap(), base.ap() if index else None),
                "others": [
                    (name, number(value).text) for name, value in (*others, ("AR", curves.ar()))
                ],
            }
        )
    return cards


def _tables(truth: GroundTruth, analyses: list[Analysis]) -> dict:
    return {
        "head": tables.head_table(truth, analyses),
        "size": tables.size_table(analyses),
        "class": tables.class_table(truth, analyses),
        "errors": tables.error_table(analyses),
        "class_errors": [
            (a.name, line_color(i), tables.error_count_table(truth, a))
            for i, a in enumerate(analyses)
        ],
        "point": tables.point_table(analyses),
        "operating": [
            (
                a.name,
                line_color(i),
                tables.threshold_table(truth, a),
                tables.confusion_table(truth, a),
            )
            for i, a in enumerate(analyses)
        ],
        "masks": tables.mask_table(analyses),
        "keypoints": tables.keypoint_table(analyses),
    }


def _plots(
    folder: Path, truth: GroundTruth, analyses: list[Analysis]
) -> dict[str, ShownPlot | None]:
    """By name; None for those that would show nothing."""
    names = truth.class_names
    wanted = {
        "curves": (partial(plots.plot_curves, analyses), "precision over recall"),
        "costs": (partial(plots.plot_error_costs, analyses), "what each kind of error costs"),
        "counts": (partial(plots.plot_error_counts, analyses), "how many errors of each kind"),
        "scores": (partial(plots.plot_scores, analyses), "scores of right and wrong detections"),
    }
    if plots.has_class_curves(analyses):
        draw = partial(plots.plot_class_curves, analyses, names)
        wanted["class_curves"] = (draw, "precision over recall for each class")
    if any(a.calibration is not None and len(a.kinds.scores) for a in analyses):
        draw = partial(plots.plot_calibration, analyses)
        wanted["calibration"] = (draw, "precision by score")
    shown = {key: shown_plot(folder / _FOLDER, key, *entry) for key, entry in wanted.items()}
    return {"class_curves": None, "calibration": None, **shown}


def _shown_example(folder: Path, example: Example) -> dict:
    panels = example.panels
    captions = [f"{p.title}: {p.note}" if p.note else p.title for p in panels]
    width = sum(p.picture.shape[1] for p in panels) + 8 * (len(panels) - 1)
    entries = [(kind, text) for kind, text in LEGEND if kind in example.kinds]
    picture = sheet([p.picture for p in panels], captions, legend_strip(entries, width))
    file = folder / _FOLDER / f"{example.rank}_{example.number}.png"
    file.write_bytes(png_bytes(picture))
    return {
        "rank": example.rank,
        "number": example.number,
        "image_id": example.image_id,
        "file_name": example.file_name,
        "columns": 2 if len(panels) in (2, 4) else 3,
        "panels": [
            {
                "title": p.title,
                "note": p.note,
                "uri": data_uri(jpeg_bytes(p.picture), "jpeg"),
                "width": p.picture.shape[1],
                "height": p.picture.shape[0],
            }
            for p in panels
        ],
    }
