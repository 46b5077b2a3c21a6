# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tables of a comparison of keypoint heads."""

from __future__ import annotations

from ..results import Comparison
from ..tables import Measure, NamedTable, ap_table, cost_table, main_table, score_table, size_table
from .objects import KEYPOINT_QUALITIES

__all__ = ["keypoint_tables"]

_OKS, _ERROR = Measure("oks", "OKS"), Measure("error", "error", less_is_better=True)
_MEASURES = (
    *(_OKS, Measure("pck05", "PCK@.05"), Measure("pck10", "PCK@.1"), _ERROR),
    Measure("pixels", "px", less_is_better=True),
)


def keypoint_tables(c: Comparison) -> list[NamedTable]:
    """All tables, the main one first."""
    return [
        _main(c),
        _ap(c),
        size_table(c, (_OKS, _ERROR), "the object"),
        cost_table(c),
        score_table(c, "keypoint", KEYPOINT_QUALITIES, "OKS"),
    ]


def _main(c: Comparison) -> NamedTable:
    measured = (
        "The others, at the true boxes: with a 95 % bootstrap interval over images and seeds. PCK: "
        "keypoints within that part of the square root of the box's area, in percent; error: mean "
        "distance in percent of it; px: in pixels of the image file (less is better)."
    )
    costs = "GFLOPs and ms are of 100 RoIs, decoding included in ms."
    return main_table(
        c, "Keypoint heads", [("keypoints/AP", "keypoint AP")], _MEASURES, measured, costs
    )


def _ap(c: Comparison) -> NamedTable:
    metrics = [
        *(("keypoints/AP", "keypoint AP"), ("keypoints/AP50", "AP50"), ("keypoints/AP75", "AP75")),
        *(("keypoints/APm", "medium"), ("keypoints/APl", "large"), ("bbox/AP", "box AP")),
    ]
    runs = [run.result for name in c.done for run in c.runs[name].values()]
    sigmas = sorted(set(runs[0].get("sigmas", []))) if runs else []
    note = "COCO's AP by object keypoint similarity, in percent."
    if len(sigmas) == 1:
        note += f" The sigma of every keypoint is {sigmas[0]:g}."
    elif sigmas:
        note += f" Sigmas are {sigmas[0]:g} to {sigmas[-1]:g}."
    return ap_table(c, metrics, note)
