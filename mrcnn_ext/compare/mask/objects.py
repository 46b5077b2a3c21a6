# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Objects with masks, and detections that match them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from detectron2.structures import Instances
from pycocotools import mask as mask_util

from ...coco.rle import encode_mask, rle_areas, to_rle
from ...evaluation.boundary import mask_and_boundary_iou
from ...evaluation.matched_boxes import match_instances
from ...files import write_json
from ...modeling.mask_heads.scoring import FREE_MASK_SCORES
from ..objects import TrueBox, annotated_boxes

__all__ = ["QUALITIES", "TrueObject", "box_as_mask", "boxes_without_mask", "match_detections"]
__all__ += ["measure_filled_boxes"]
__all__ += ["quality_field", "true_objects"]

# What a mask may be scored by; "score in use" is what masks are ranked by.
QUALITIES = ("class score", "mean_foreground", "certainty", "mask_iou", "score in use")


@dataclass
class TrueObject(TrueBox):
    """An annotation with a mask; ``rle``: compressed."""

    rle: dict = field(repr=False)


def true_objects(record: dict) -> list[TrueObject]:
    """Annotations of an image with a mask of at least a pixel, crowds left out.

    Args:
        record: of a data set in Detectron2's format.
    """
    found = []
    for item, one in annotated_boxes(record):
        segmentation = item.get("segmentation")
        if segmentation is None or len(segmentation) == 0:
            continue
        rle = to_rle(segmentation, record["height"], record["width"])
        if area := rle_areas([rle])[0]:
            found.append(TrueObject(**{**vars(one), "area": area}, rle=rle))
    return found


def boxes_without_mask(records: Sequence[dict]) -> dict[int | str, list[TrueBox]]:
    """Annotations that have only a box, crowds left out, by image id."""
    return {
        record["image_id"]: [
            one for item, one in annotated_boxes(record) if not len(item.get("segmentation", ()))
        ]
        for record in records
    }


def box_as_mask(one: TrueObject) -> dict:
    """The filled true box as RLE: what a head that knows nothing could answer."""
    x0, y0, x1, y1 = (round(v) for v in one.box)
    mask = np.zeros(one.rle["size"], dtype=np.uint8)
    mask[max(y0, 0) : max(y1, y0 + 1), max(x0, 0) : max(x1, x0 + 1)] = 1
    return encode_mask(mask)


def measure_filled_boxes(
    file: Path, records: Sequence[dict], boundary_dilation: float
) -> dict[str, np.ndarray]:
    """Measures of :func:`box_as_mask`, as columns of objects.json; kept in ``file``."""
    if file.is_file():
        columns = json.loads(file.read_text(encoding="utf-8"))
    else:
        columns = {key: [] for key in ("area", "category", "iou", "boundary_iou")}
        for one in (one for record in records for one in true_objects(record)):
            ious = mask_and_boundary_iou(box_as_mask(one), one.rle, boundary_dilation)
            for key, value in zip(columns, (one.area, one.category, *ious)):
                columns[key].append(value)
        write_json(file, columns, indent=None)
    return {key: np.asarray(values) for key, values in columns.items()}


def match_detections(
    output: Instances, objects: Sequence[TrueObject], without_mask: Sequence[TrueBox] = ()
) -> list[dict[str, float]]:
    """Detections whose box has an IoU of 0.5 or more with an object of their class.

    Args:
        without_mask: objects that have only a box; what matches them is left out.

    Returns:
        for each: "iou" of its mask, and each of ``QUALITIES`` that is known.
    """
    if not output.has("pred_masks"):
        return []
    rows = []
    every = [*objects, *without_mask]
    boxes, classes = [x.box for x in every], [x.category for x in every]
    for found, place in match_instances(output, boxes, classes):
        if place >= len(objects):
            continue
        rle = encode_mask(output.pred_masks[found].numpy())
        iou = float(mask_util.iou([rle], [objects[place].rle], [0])[0, 0])
        rows.append({"iou": iou, **_qualities(output, found)})
    return rows


def quality_field(kind: str) -> str:
    """Field of Instances with one of ``QUALITIES``."""
    return f"quality_{kind}"


def _qualities(output: Instances, place: int) -> dict[str, float]:
    values = {"class score": float(output.scores[place])}
    for kind in (*FREE_MASK_SCORES, "mask_iou"):
        if output.has(quality_field(kind)):
            values[kind] = float(output.get(quality_field(kind))[place])
    if output.has("mask_scores"):
        values["score in use"] = float(output.mask_scores[place])
    return values
