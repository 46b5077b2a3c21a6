# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Tables of the report: numbers as text, with differences to the first result file."""

from __future__ import annotations

from ..coco.areas import AREA_NAMES
from ..coco.index import GroundTruth
from ..evaluation.confusion import frequent_confusions
from ..page import Cell, Table, count, line_color, number
from .analysis import Analysis
from .error_kinds import KINDS
from .plots import KIND_NAMES

__all__ = ["class_table", "error_count_table", "error_table", "head_table", "keypoint_table"]
__all__ += ["confusion_table", "mask_table", "point_table", "size_table", "threshold_table"]

_MOST_CLASSES = 15  # of a confusion matrix that fits the page
_MOST_PAIRS = 30
_SIZE_NAMES = {
    "all": "all",
    "small": "small (up to 32²)",
    "medium": "medium (32² to 96²)",
    "large": "large (96² and more)",
}


def _names(analyses: list[Analysis]) -> list[Cell]:
    return [Cell(a.name, a.name, color=line_color(i)) for i, a in enumerate(analyses)]


def head_table(truth: GroundTruth, analyses: list[Analysis]) -> Table:
    """AP and its relatives, a row for each result file."""
    measures = [
        ("AP", lambda e: e.ap()),
        ("AP50", lambda e: e.ap(0.5)),
        ("AP75", lambda e: e.ap(0.75)),
        ("AP small", lambda e: e.ap(area="small")),
        ("AP medium", lambda e: e.ap(area="medium")),
        ("AP large", lambda e: e.ap(area="large")),
        ("AR", lambda e: e.ar()),
    ]
    rows = []
    for index, (analysis, name) in enumerate(zip(analyses, _names(analyses))):
        cells = [name]
        for _, measure in measures:
            first = measure(analyses[0].curves) if index else None
            cells.append(number(measure(analysis.curves), first))
        found = {d["image_id"] for d in analysis.entries}
        cells += [count(len(analysis.entries)), count(len(found))]
        rows.append(cells)
    columns = ["", *(name for name, _ in measures), "detections", "images with any"]
    return Table(columns, rows)


def size_table(analyses: list[Analysis]) -> Table:
    """AP and AR by size, a row for each size."""
    rows = []
    for index, area in enumerate(AREA_NAMES):
        instances = int(analyses[0].instances[:, index].sum())
        cells = [Cell(_SIZE_NAMES[area], index), count(instances)]
        for place, analysis in enumerate(analyses):
            for measure in (
                lambda e, a=area: e.ap(area=a),
                lambda e, a=area: e.ap(0.5, a),
                lambda e, a=area: e.ap(0.75, a),
                lambda e, a=area: e.ar(area=a),
            ):
                first = measure(analyses[0].curves) if place else None
                cells.append(number(measure(analysis.curves), first))
        rows.append(cells)
    columns = ["size", "instances", *("AP", "AP50", "AP75", "AR") * len(analyses)]
    return Table(columns, rows, _groups(analyses, 2, 4), stacked=len(analyses) > 2)


def class_table(truth: GroundTruth, analyses: list[Analysis]) -> Table:
    """AP by class; sortable."""
    rows = []
    for k, name in enumerate(truth.class_names):
        cells = [Cell(name, name), count(int(analyses[0].instances[k, 0]))]
        for place, analysis in enumerate(analyses):
            base = analyses[0].curves if place else None
            for iou in (None, 0.5):
                value = analysis.curves.ap(iou, category=k)
                cell = number(value, None if base is None else base.ap(iou, category=k))
                cell.bar = value if iou is None and value == value else None
                cell.color = line_color(place) if cell.bar is not None else ""
                cells.append(cell)
            cells.append(number(analysis.curves.ar(category=k)))
        rows.append(cells)
    columns = ["class", "instances", *("AP", "AP50", "AR") * len(analyses)]
    groups = _groups(analyses, 2, 3)
    return Table(columns, rows, groups, sortable=True, stacked=len(analyses) > 3)


def error_table(analyses: list[Analysis]) -> Table:
    """Number and cost of each kind of error, a row for each result file."""
    rows = []
    first = analyses[0]
    for index, (analysis, name) in enumerate(zip(analyses, _names(analyses))):
        cells = [name, number(analysis.kinds.base_ap())]
        for key in (*KINDS, "fp", "fn"):
            base = first.delta_ap[key] if index else None
            cells.append(number(analysis.delta_ap[key], base, lower_is_better=True))
        rows.append(cells)
    columns = ["", "AP50", *(KIND_NAMES[k] for k in KINDS), "false positives", "false negatives"]
    return Table(columns, rows, [("", 2, ""), ("ΔAP50 if it were fixed", len(KINDS) + 2, "")])


def error_count_table(truth: GroundTruth, analysis: Analysis) -> Table:
    """Errors of each class, of one result file; sortable."""
    rows = []
    for k, name in enumerate(truth.class_names):
        counts = analysis.kinds.counts_of_class(k)
        cells = [count(counts[kind]) for kind in KINDS]
        instances = count(int(analysis.instances[k, 0]))
        rows.append([Cell(name, name), instances, *cells])
    return Table(["class", "instances", *(KIND_NAMES[k] for k in KINDS)], rows, sortable=True)


def point_table(analyses: list[Analysis]) -> Table:
    """What is right and wrong at a score threshold."""
    rows = []
    base = analyses[0].point
    for index, (analysis, name) in enumerate(zip(analyses, _names(analyses))):
        point = analysis.point
        cells = [name, Cell(f"{point.threshold:.2f}", point.threshold)]
        for key in ("precision", "recall", "f1"):
            first = getattr(base, key) if index else None
            cells.append(number(getattr(point, key), first))
        found = analysis.calibration
        error = float("nan") if found is None else found.error
        first_error = analyses[0].calibration
        cells.append(
            number(
                error, first_error.error if index and first_error else None, lower_is_better=True
            )
        )
        rows.append(cells)
    return Table(["", "threshold", "precision", "recall", "F1", "calibration error"], rows)


def threshold_table(truth: GroundTruth, analysis: Analysis) -> Table:
    """The threshold of each class that has one, and what is right and wrong there; sortable."""
    rows = []
    for name, point in zip(truth.class_names, analysis.operating.of_class):
        if point is not None:
            cells = [Cell(name, name), Cell(f"{point.threshold:.3f}", point.threshold)]
            cells += [number(getattr(point, key)) for key in ("precision", "recall", "f1")]
            rows.append([*cells, count(point.objects), count(point.detections)])
    columns = ["class", "threshold", "precision", "recall", "F1", "objects", "detections"]
    return Table(columns, rows, sortable=True)


def confusion_table(truth: GroundTruth, analysis: Analysis) -> Table:
    """Objects by their class and the class they were detected as; of many classes the pairs that
    are confused most."""
    names, matrix = truth.class_names, analysis.operating.confusion
    if len(names) > _MOST_CLASSES:
        pairs = frequent_confusions(matrix, names)[:_MOST_PAIRS]
        rows = [[Cell(a, a), Cell(b, b), count(times)] for times, a, b in pairs]
        return Table(["object", "taken for", "times"], rows, sortable=True)
    rows = [
        [Cell(name), *(count(value) if value else Cell("\u00b7") for value in values)]
        for name, values in zip([*names, "nothing"], matrix.tolist())
    ]
    return Table(["object", *names, "missed"], rows)


def mask_table(analyses: list[Analysis]) -> Table | None:
    """Mask and boundary IoU of matched boxes by size; None without masks."""
    shown = [
        (i, a.name, a.mask_quality) for i, a in enumerate(analyses) if a.mask_quality is not None
    ]
    if not shown:
        return None
    base = shown[0][2]
    rows = []
    for area in AREA_NAMES:
        cells = [Cell(_SIZE_NAMES[area])]
        for place, (_, _, quality) in enumerate(shown):
            cells.append(count(quality[area]["pairs"]))
            for key in ("mask_iou", "boundary_iou"):
                cells.append(number(quality[area][key], base[area][key] if place else None))
        rows.append(cells)
    columns = ["size", *("pairs", "mask IoU", "boundary IoU") * len(shown)]
    groups = [(name, 3, line_color(i)) for i, name, _ in shown]
    return Table(columns, rows, [("", 1, ""), *groups], stacked=len(analyses) > 2)


def keypoint_table(analyses: list[Analysis]) -> Table | None:
    """AP by object keypoint similarity; None without keypoints."""
    shown = [(i, a.name, a.keypoints) for i, a in enumerate(analyses) if a.keypoints is not None]
    if not shown:
        return None
    names = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APm": "AP medium", "APl": "AP large"}
    names["AR"] = "AR"
    base = shown[0][2]
    rows = []
    for place, (index, name, values) in enumerate(shown):
        cells = [Cell(name, name, color=line_color(index))]
        cells += [number(values[key], base[key] if place else None) for key in names]
        rows.append(cells)
    return Table(["", *names.values()], rows)


def _groups(analyses: list[Analysis], before: int, columns: int) -> list[tuple[str, int, str]]:
    named = [(a.name, columns, line_color(i)) for i, a in enumerate(analyses)]
    return [("", before, ""), *named]
