# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Measure how near keypoints are where the box is right: PCK and the mean distance.

PCK, the percentage of correct keypoints, counts those within a part of a length of the object: of the
box (Yang and Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts", TPAMI 2013; here
the square root of its area) or of the distance between two keypoints, such as a head (PCKh:
Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art Analysis", CVPR 2014).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...coco.index import ImageCategory
from ..matched_boxes import matched_boxes
from ..overlaps import Overlaps
from .task import Task, TaskInput, register_task

__all__ = ["PCK", "PCK_THRESHOLDS"]

PCK_THRESHOLDS = (0.05, 0.1, 0.2)
_SHOWN = 0.1  # of single classes and keypoints


class PCK(Task):
    """Distances of keypoints of detections whose box matches an object of their class.

    "PCK@0.05", "PCK@0.1", "PCK@0.2": labelled keypoints that are so near, in percent; "error" and
    "median_error": their distances in percent of the unit; "found": objects with labelled keypoints
    that have a match, in percent; "matches": their number. "PCK@0.1-<class>" where there are several
    classes, and "PCK@0.1-<class>/<keypoint>" where names are known.

    The unit is the distance of the two keypoints of ``settings.pck_reference``, for objects that have
    both labelled (and apart; others do not count), or the square root of the box's area.
    """

    name = "pck"
    needs = ("bbox",)
    wants = ("keypoints",)
    metrics = (
        *(f"PCK@{threshold:g}" for threshold in PCK_THRESHOLDS),
        *("error", "median_error", "found", "matches"),
    )

    def evaluate(self, data: TaskInput) -> dict[str, float]:
        truth = data.ground_truth
        truth.keypoint_counts()  # must be the same within a category
        distances: dict[tuple[str, str], list[float]] = {}
        objects_seen = found = 0
        for pair, objects in truth.by_pair.items():
            names = truth.categories[pair[1] - 1].get("keypoints") or []
            units = [_unit(entry, names, data.settings.pck_reference) for entry in objects]
            objects_seen += np.count_nonzero(units)
            for points, column in _matches(data.overlaps, pair) if any(units) else ():
                if not units[column]:
                    continue
                found += 1
                wanted = _points(objects[column])
                distance = np.linalg.norm(points[: len(wanted), :2] - wanted[:, :2], axis=1)
                for slot in np.flatnonzero(wanted[:, 2] > 0):
                    name = names[slot] if slot < len(names) else ""
                    key = (data.class_names[pair[1] - 1], name)
                    distances.setdefault(key, []).append(float(distance[slot] / units[column]))
        results = _summary(distances)
        results["found"] = 100 * found / objects_seen if objects_seen else float("nan")
        results["matches"] = float(found)
        return results


def _matches(overlaps: Overlaps, pair: ImageCategory) -> list[tuple[np.ndarray, int]]:
    """(K, 3) predicted keypoints and the object's column, of each match."""
    entries = overlaps.detections.by_pair.get(pair, [])
    keypoints = [entry["record"].get("keypoints") for entry in entries]
    if not any(keypoints):
        return []
    matches = matched_boxes(overlaps, pair)
    return [(np.reshape(keypoints[r], (-1, 3)), c) for r, c in matches if keypoints[r]]


def _points(entry: dict) -> np.ndarray:
    """(K, 3) of an object of the ground truth; K may be 0."""
    return np.reshape(entry["annotation"].get("keypoints") or [], (-1, 3)).astype(float)


def _unit(entry: dict, names: Sequence[str], reference: Sequence[str]) -> float:
    """Pixels of the unit of length; 0 for an object that does not count."""
    points = _points(entry)
    if entry["iscrowd"] or not (points[:, 2] > 0).any():
        return 0.0
    if not reference:
        return float(np.sqrt(max(entry["bbox"][2], 0) * max(entry["bbox"][3], 0)))
    if not set(reference) <= set(names):
        return 0.0
    first, second = (points[names.index(name)] for name in reference)
    if not (first[2] > 0 and second[2] > 0):
        return 0.0
    return float(np.linalg.norm(first[:2] - second[:2]))


def _summary(distances: Mapping[tuple[str, str], Sequence[float]]) -> dict[str, float]:
    every = np.array([value for values in distances.values() for value in values])
    results = {f"PCK@{t:g}": _percent(every <= t) for t in PCK_THRESHOLDS}
    results["error"] = _percent(every)
    results["median_error"] = float(100 * np.median(every)) if every.size else float("nan")
    classes = dict.fromkeys(name for name, _ in distances)
    for name in classes if len(classes) > 1 else ():
        own = np.concatenate([v for (c, _), v in distances.items() if c == name])
        results[f"PCK@{_SHOWN:g}-{name}"] = _percent(own <= _SHOWN)
    for (name, keypoint), values in distances.items():
        if keypoint:
            results[f"PCK@{_SHOWN:g}-{name}/{keypoint}"] = _percent(np.array(values) <= _SHOWN)
    return results


def _percent(values: np.ndarray) -> float:
    return float(100 * np.mean(values)) if values.size else float("nan")


register_task(PCK())
