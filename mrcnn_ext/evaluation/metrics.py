# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Numbers in a table, made from curves: percentages, NaN where there is nothing to measure."""

from __future__ import annotations

import numpy as np

from ..coco.areas import AREA_LETTERS
from .matching import Curves

__all__ = ["FREQUENCIES", "no_predictions", "summarize"]

FREQUENCIES = {"r": "APr", "c": "APc", "f": "APf"}  # LVIS: rare, common, frequent


def summarize(
    curves: Curves, class_names: list[str], frequencies: list[str] | None = None
) -> dict[str, float]:
    """AP and AR in percent, by Detectron2's names.

    Args:
        curves: of one task.
        class_names: one a category; AP per class is given when there are several.
        frequencies: "r", "c" or "f" for each category, of LVIS.

    Returns:
        "AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf" as far as there is such a
        thing, "AR@1" … and "ARs" …, "AP-<class>"; NaN where no object is.
    """
    last = len(curves.max_dets) - 1
    precision = curves.precision[..., last]
    results = {
        "AP": _percent(precision[:, :, :, 0]),
        "AP50": _percent(precision[0, :, :, 0]),
        "AP75": _percent(precision[5, :, :, 0]),
    }
    areas = [(index, AREA_LETTERS[name]) for index, name in enumerate(curves.areas) if index]
    results.update({f"AP{letter}": _percent(precision[..., index]) for index, letter in areas})
    if frequencies:
        for frequency, key in FREQUENCIES.items():
            chosen = [index for index, f in enumerate(frequencies) if f == frequency]
            results[key] = _percent(precision[:, :, chosen, 0])
    for index, number in enumerate(curves.max_dets):
        results[f"AR@{number}"] = _percent(curves.recall[:, :, 0, index])
    for index, letter in areas:
        results[f"AR{letter}"] = _percent(curves.recall[:, :, index, last])
    if len(class_names) > 1:
        for index, name in enumerate(class_names):
            results[f"AP-{name}"] = _percent(precision[:, :, index, 0])
    return results


def no_predictions(keypoints: bool = False) -> dict[str, float]:
    """What Detectron2 reports for a model that found nothing at all: NaN."""
    names = ["AP", "AP50", "AP75", "APm", "APl"] if keypoints else None
    return dict.fromkeys(names or ["AP", "AP50", "AP75", "APs", "APm", "APl"], float("nan"))


def _percent(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(np.mean(values) * 100) if values.size else float("nan")
