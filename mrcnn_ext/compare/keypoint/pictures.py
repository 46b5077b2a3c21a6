# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The same objects as every keypoint head sees them: a crop, the truth, each head's errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image

from ...skeletons import SkeletonSet
from ...visualization.sheets import legend_strip, sheet
from ..mask.pictures import SIDE, Choice, crop_window, cut_window
from ..results import Comparison
from .objects import PosedObject, posed_objects

__all__ = ["KEYPOINT_COLORS", "KEYPOINT_LEGEND", "draw_keypoint_grid"]

KEYPOINT_COLORS = {"truth": "#ffffff", "predicted": "#2fa84f", "error": "#e02b2b"}
KEYPOINT_LEGEND = (
    ("truth", "truth"),
    ("predicted", "predicted"),
    ("error", "from a prediction to its true place"),
)


def draw_keypoint_grid(
    c: Comparison,
    records: Sequence[dict],
    choices: Sequence[Choice],
    skeletons: SkeletonSet | None,
    seed: int = 1,
) -> np.ndarray | None:
    """A row for each object: crop, truth, each head's keypoints (of one seed) with their errors.

    Returns:
        uint8 (H, W, 3), RGB; None if nothing can be drawn.
    """
    runs = {name: c.runs[name][seed] for name in c.done if seed in c.runs[name]}
    if c.baseline not in runs or not choices:
        return None
    found = {
        name: json.loads((Path(r.folder) / "keypoints.json").read_text())
        for name, r in runs.items()
    }
    by_id = {record["image_id"]: record for record in records}
    objects = runs[c.baseline].objects
    rows = []
    for choice in choices:
        record = by_id[objects["image_id"][choice.row].item()]
        one = next(x for x in posed_objects(record) if x.index == objects["index"][choice.row])
        predicted = {name: np.array(found[name][choice.row]) for name in runs}
        scores = {name: run.objects["oks"][choice.row] for name, run in runs.items()}
        kind = c.class_names[one.category] if c.class_names else str(one.category)
        title = f"{choice.level}: {kind}"
        rows.append(_row(record, one, predicted, scores, title, _edges(skeletons)))
    strip = legend_strip(list(KEYPOINT_LEGEND), rows[0].shape[1], KEYPOINT_COLORS)
    return np.concatenate([*rows, strip])


def _edges(skeletons: SkeletonSet | None) -> list[tuple[int, int]]:
    """Of all skeletons, as slots."""
    if skeletons is None:
        return []
    index = {name: slot for slot, name in enumerate(skeletons.keypoint_names)}
    return [(index[a], index[b]) for a, b in skeletons.edges]


def _row(record, one: PosedObject, predicted: dict, scores: dict, title: str, edges) -> np.ndarray:
    image = np.ascontiguousarray(read_image(record["file_name"], "RGB"))
    window = crop_window(one.box, image.shape[:2])
    crop = cut_window(image, window, cv2.INTER_CUBIC)
    pale = (0.5 * crop.mean(axis=2, keepdims=True) + 60).repeat(3, axis=2).astype(np.uint8)
    truth, seen = _in_window(one.keypoints[:, :2], window), one.keypoints[:, 2] > 0
    panels = [crop, _skeleton(pale.copy(), truth, seen, edges, KEYPOINT_COLORS["truth"])]
    captions = [title, "truth"]
    for name, keypoints in predicted.items():
        points = _in_window(keypoints[:, :2], window)
        panel = _skeleton(pale.copy(), points, seen, edges, KEYPOINT_COLORS["predicted"])
        panels.append(_errors(panel, points, truth, seen))
        captions.append(f"{100 * scores[name]:.0f} {name}")
    nothing = np.zeros((0, len(panels) * (SIDE + 8) - 8, 3), dtype=np.uint8)
    return sheet(panels, captions, nothing)


def _in_window(points: np.ndarray, window: tuple[float, float, float]) -> np.ndarray:
    """Continuous pixels of the image to whole pixels of the panel."""
    left, top, side = window
    scaled = (points - (left, top)) * (SIDE / side) - 0.5
    return np.round(scaled).clip(-4 * SIDE, 4 * SIDE).astype(int)


def _skeleton(panel: np.ndarray, points: np.ndarray, seen: np.ndarray, edges, color: str):
    rgb = _rgb(color)
    for a, b in edges:
        if seen[a] and seen[b]:
            cv2.line(panel, points[a].tolist(), points[b].tolist(), rgb, 2, cv2.LINE_AA)
    for point in points[seen].tolist():
        cv2.circle(panel, point, 3, rgb, -1, cv2.LINE_AA)
    return panel


def _errors(panel: np.ndarray, points: np.ndarray, truth: np.ndarray, seen: np.ndarray):
    for point, place in zip(points[seen].tolist(), truth[seen].tolist()):
        cv2.line(panel, point, place, _rgb(KEYPOINT_COLORS["error"]), 2, cv2.LINE_AA)
        cv2.circle(panel, place, 2, _rgb(KEYPOINT_COLORS["truth"]), -1, cv2.LINE_AA)
    return panel


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
