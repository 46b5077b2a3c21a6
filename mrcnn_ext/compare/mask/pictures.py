# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The same objects as every head sees them: a crop, the truth, each mask with its errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from pycocotools import mask as mask_util

from ...visualization.sheets import legend_strip, sheet
from ..results import Comparison
from .objects import TrueObject, true_objects

__all__ = ["SIDE", "Choice", "choose", "crop_window", "cut_window", "draw_grid"]

COLORS = {"right": "#2fa84f", "false_positive": "#e02b2b", "false_negative": "#3d7eff"}
LEGEND = (
    ("right", "in mask and truth"),
    ("false_positive", "in the mask only"),
    ("false_negative", "in the truth only"),
)
_LEVELS = {"hard": 0.1, "medium": 0.5, "easy": 0.9}  # quantiles of the baseline's measure
_LEAST_AREA = 20**2  # what is smaller shows nothing
SIDE = 220  # pixels of a panel
_MARGIN = 1.35  # sides of the crop by sides of the box


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


def draw_grid(
    c: Comparison, records: Sequence[dict], choices: Sequence[Choice], seed: int = 1
) -> np.ndarray | None:
    """A row for each object: crop, truth, each head's mask (of one seed) with its errors.

    Returns:
        uint8 (H, W, 3), RGB; None if nothing can be drawn.
    """
    runs = {name: c.runs[name][seed] for name in c.done if seed in c.runs[name]}
    if c.baseline not in runs or not choices:
        return None
    masks = {
        name: json.loads((Path(r.folder) / "masks.json").read_text()) for name, r in runs.items()
    }
    by_id = {record["image_id"]: record for record in records}
    objects = runs[c.baseline].objects
    rows = []
    for choice in choices:
        record = by_id[objects["image_id"][choice.row].item()]
        one = next(x for x in true_objects(record) if x.index == objects["index"][choice.row])
        predicted = {name: masks[name][choice.row] for name in runs}
        scores = {name: run.objects["boundary_iou"][choice.row] for name, run in runs.items()}
        kind = c.class_names[one.category] if c.class_names else str(one.category)
        rows.append(_row(record, one, predicted, scores, f"{choice.level}: {kind}"))
    width = rows[0].shape[1]
    strip = legend_strip(list(LEGEND), width, COLORS)
    return np.concatenate([*rows, strip])


def _row(record: dict, one: TrueObject, predicted: dict, scores: dict, title: str) -> np.ndarray:
    image = np.ascontiguousarray(read_image(record["file_name"], "RGB"))
    window = crop_window(one.box, image.shape[:2])
    crop = cut_window(image, window, cv2.INTER_CUBIC)
    truth = cut_window(mask_util.decode(one.rle), window, cv2.INTER_LINEAR)
    panels, captions = [crop, _compared(crop, truth, truth)], [title, "truth"]
    for name, rle in predicted.items():
        mask = cut_window(mask_util.decode(rle), window, cv2.INTER_LINEAR)
        panels.append(_compared(crop, mask, truth))
        captions.append(f"{100 * scores[name]:.0f} {name}")
    nothing = np.zeros((0, len(panels) * (SIDE + 8) - 8, 3), dtype=np.uint8)
    return sheet(panels, captions, nothing)


def crop_window(box: Sequence[float], size: tuple[int, ...]) -> tuple[float, float, float]:
    """Left, top and side of a square around the box."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0, 8.0) * _MARGIN
    return (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side


def cut_window(picture: np.ndarray, window: tuple[float, float, float], kind: int) -> np.ndarray:
    """The window, SIDE pixels wide; ``kind``: an interpolation of OpenCV. Masks stay masks."""
    left, top, side = window
    scale = SIDE / side
    # cv2 counts from the centres of pixels, boxes from their corners
    offset = scale * (0.5 - np.array([left, top])) - 0.5
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    source = picture.astype(np.float32) if picture.ndim == 2 else picture
    fill = (245, 245, 245) if picture.ndim == 3 else 0
    cut = cv2.warpAffine(source, matrix, (SIDE, SIDE), flags=kind, borderValue=fill)
    return cut if picture.ndim == 3 else (cut >= 0.5).astype(np.uint8)


def _compared(crop: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    picture = (0.55 * crop.mean(axis=2, keepdims=True) + 90).repeat(3, axis=2)  # grey, pale
    parts = {
        "right": mask & truth,
        "false_positive": mask & ~truth & 1,
        "false_negative": ~mask & truth & 1,
    }
    for kind, part in parts.items():
        color = np.array([int(COLORS[kind][i : i + 2], 16) for i in (1, 3, 5)])
        share = 0.35 if kind == "right" else 0.7
        inside = part.astype(bool)
        picture[inside] = (1 - share) * picture[inside] + share * color
    picture = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))
    contours = cv2.findContours(truth, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(picture, contours, -1, (255, 255, 255), 1, cv2.LINE_AA)
    return picture
