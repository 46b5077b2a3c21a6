# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tables of a comparison of keypoint heads."""

from __future__ import annotations

from ...page import Cell, Table
from ..cells import NONE, ap_cell, cost_cell, head_cell, measure_cell
from ..results import AREAS, Comparison

__all__ = ["keypoint_ap", "keypoint_main", "keypoint_sizes"]

# Columns of objects.json: title, and whether less is better
_MEASURES = {
    "oks": ("OKS", False),
    "pck05": ("PCK@.05", False),
    "pck10": ("PCK@.1", False),
    "error": ("error", True),
    "pixels": ("px", True),
}


def keypoint_main(c: Comparison) -> tuple[str, str, Table]:
    """Title, note and table of what matters most."""
    columns = ["head", "keypoint AP", *(title for title, _ in _MEASURES.values())]
    columns += ["M par.", "GFLOPs", "ms", "seeds"]
    rows = []
    for name in c.names:
        seeds = Cell(f"{len(c.runs[name])}/{c.seeds}", len(c.runs[name]))
        if not c.runs[name]:
            rows.append([head_cell(c, name), *[Cell(NONE)] * (len(columns) - 2), seeds])
            continue
        cells = [ap_cell(c, name, "keypoints/AP")]
        cells += [measure_cell(c, name, key, less=less) for key, (_, less) in _MEASURES.items()]
        cells.append(cost_cell(c, name, "parameters", 2, 1e-6))
        cells.append(cost_cell(c, name, "gflops", 2))
        cells.append(cost_cell(c, name, "milliseconds", 1))
        rows.append([head_cell(c, name), *cells, seeds])
    note = (
        f"Mean ± standard deviation over seeds; under it the difference to {c.baseline}. AP: mean ± "
        "standard deviation of the differences of each seed. The others, at the true boxes: with a "
        "95 % bootstrap interval over images and seeds. PCK: keypoints within that part of the square "
        "root of the box's area, in percent; error: mean distance in percent of it; px: in pixels of "
        "the image file (less is better). Coloured: the interval is without 0; for AP, all seeds "
        "agree. GFLOPs and ms are of 100 RoIs, decoding included in ms."
    )
    return "Keypoint heads", note, Table(columns, rows)


def keypoint_ap(c: Comparison) -> tuple[str, str, Table]:
    metrics = [
        *(("keypoints/AP", "keypoint AP"), ("keypoints/AP50", "AP50"), ("keypoints/AP75", "AP75")),
        *(("keypoints/APm", "medium"), ("keypoints/APl", "large"), ("bbox/AP", "box AP")),
    ]
    rows = [[head_cell(c, n), *(ap_cell(c, n, m) for m, _ in metrics)] for n in c.done]
    runs = [run.result for name in c.done for run in c.runs[name].values()]
    sigmas = sorted(set(runs[0].get("sigmas", []))) if runs else []
    note = "COCO's AP by object keypoint similarity, in percent. "
    if len(sigmas) == 1:
        note += f"The sigma of every keypoint is {sigmas[0]:g}. "
    elif sigmas:
        note += f"Sigmas are {sigmas[0]:g} to {sigmas[-1]:g}. "
    note += "The same box AP for all heads says that the same boxes were found."
    return "Average precision", note, Table(["head", *(t for _, t in metrics)], rows)


def keypoint_sizes(c: Comparison) -> tuple[str, str, Table]:
    sizes = [area for area in AREAS if area != "all"]
    shown = [("oks", "OKS", False), ("error", "error", True)]
    rows = [
        [
            head_cell(c, name),
            *(measure_cell(c, name, m, area, less=less) for m, _, less in shown for area in sizes),
        ]
        for name in c.done
    ]
    note = "At the true boxes, by area of the object: below 32², below 96² pixels, and above."
    if c.done:
        objects = next(iter(c.runs[c.done[0]].values())).objects
        numbers = ", ".join(f"{a} {int(c.chosen(objects, a).sum())}" for a in sizes)
        note += f" Objects: {numbers}."
    groups = [("", 1, ""), *((title, len(sizes), "") for _, title, _ in shown)]
    return "By size", note, Table(["head", *(sizes * len(shown))], rows, groups)
