# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The same objects as every head sees them: a crop, the truth, each head's answer with its errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.image_file import ImageReader, read_picture
from ..visualization.primitives import View
from ..visualization.sheets import legend_strip, sheet
from .kind import HeadKind
from .results import Comparison

__all__ = ["Choice", "choose", "draw_grid"]

_LEVELS = {"hard": 0.1, "medium": 0.5, "easy": 0.9}  # quantiles of the baseline's measure
_LEAST_AREA = 20**2  # what is smaller shows nothing
_SIDE = 220  # pixels of a panel


@dataclass
class Choice:
    """An object to draw: its row in objects.json, and how hard it is."""

    row: int
    level: str


def choose(
    objects: dict[str, np.ndarray], per_level: int = 2, measure: str = "boundary_iou"
) -> list[Choice]:
    """Objects around the 10th, 50th and 90th percentile of a measure of the baseline.

    Of those with an area of at least 400 pixels; from each image one at most, of each level from
    different classes if there are any. The choice follows from the baseline's first run alone.
    """
    rows = np.flatnonzero(objects["area"] >= _LEAST_AREA)
    if not len(rows):
        rows = np.arange(len(objects["area"]))
    values = objects[measure][rows]
    chosen: list[Choice] = []
    used: set[int] = set()
    for level, quantile in _LEVELS.items():
        if not len(rows):
            break
        order = rows[np.argsort(np.abs(values - np.quantile(values, quantile)), kind="stable")]
        classes: set[int] = set()
        fresh = [r for r in order if objects["image"][r] not in used]
        for row in [*fresh, *(r for r in order if r not in fresh)]:
            if len([x for x in chosen if x.level == level]) == per_level:
                break
            image, category = int(objects["image"][row]), int(objects["category"][row])
            taken = any(x.row == row for x in chosen)
            if taken or (category in classes and len(fresh) > per_level):
                continue
            used.add(image)
            classes.add(category)
            chosen.append(Choice(int(row), level))
            fresh = [r for r in fresh if objects["image"][r] not in used]
    return chosen


def draw_grid(c: Comparison, kind: HeadKind, cfg, records: Sequence[dict]) -> np.ndarray | None:
    """A row for each object: crop, truth, and what each head says in the baseline's first seed.

    Args:
        cfg: of the comparison; names the test set.
        records: of that set, in Detectron2's format.

    Returns:
        uint8 (H, W, 3), RGB; None if nothing can be drawn.
    """
    if not c.runs[c.baseline]:
        return None
    seed = min(c.runs[c.baseline])
    runs = {name: c.runs[name][seed] for name in c.done if seed in c.runs[name]}
    objects = runs[c.baseline].objects
    measure, _ = kind.judged_by
    answers = {n: json.loads((run.folder / kind.answers).read_text()) for n, run in runs.items()}
    by_id = {record["image_id"]: record for record in records}
    paint = kind.painter(cfg.DATASETS.TEST[0])
    rows = []
    for choice in choose(objects, measure=measure):
        record = by_id[objects["image_id"][choice.row].item()]
        index = objects["index"][choice.row]
        one = next(x for x in kind.objects(record) if x.index == index)
        image = read_picture(record["file_name"], ImageReader.from_config(cfg))
        view = View.around(one.box, image.shape, side=_SIDE)
        crop = view.image(image)
        category = c.class_names[one.category] if c.class_names else str(one.category)
        panels = [crop, paint(crop, view, one, None)]
        captions = [f"{choice.level}: {category}", "truth"]
        for name, run in runs.items():
            panels.append(paint(crop, view, one, answers[name][choice.row]))
            captions.append(f"{100 * run.objects[measure][choice.row]:.0f} {name}")
        rows.append(sheet(panels, captions))
    if not rows:
        return None
    return np.concatenate([*rows, legend_strip(kind.legend, rows[0].shape[1], kind.colors)])
