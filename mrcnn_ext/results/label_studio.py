# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions as tasks of Label Studio, and the labelling interface that shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pycocotools import mask as mask_util

from ..data.convert.brush import encode_brush
from ..files import write_text
from .json_file import write_json_list
from .options import FormOptions
from .polygons import mask_parts
from .predictions import Predictions

__all__ = ["write_label_studio", "write_label_studio_polygons"]

_IMAGE = "image"  # the name of the image in tasks and interface
_POINT_SIZE = 0.6  # percent of the image's width
_CONTROLS = {
    "brush": "BrushLabels",
    "polygon": "PolygonLabels",
    "box": "RectangleLabels",
    "keypoint": "KeyPointLabels",
}


def write_label_studio(predictions: Predictions, folder: Path, options: FormOptions) -> None:
    """Write ``label_studio/brush.json`` and ``interface.xml``: masks as brushes, pixel for pixel."""
    _write("brush.json", predictions, folder, options, None)


def write_label_studio_polygons(
    predictions: Predictions, folder: Path, options: FormOptions
) -> None:
    """Write ``label_studio/polygons.json`` and ``interface.xml``: masks as polygons.

    The further parts of an object are children of its largest (``parentID``). A polygon there has no
    holes: masks with holes are brushes.
    """
    _write("polygons.json", predictions, folder, options, options.polygon_error)


def _write(
    name: str, predictions: Predictions, folder: Path, options: FormOptions, error: float | None
) -> None:
    target = folder / "label_studio"
    make = partial(_task, predictions, prefix=options.image_url, error=error)
    write_text(target / "interface.xml", _interface(predictions))
    write_json_list(target / name, map(make, predictions.lines))


def _task(predictions: Predictions, line: dict, *, prefix: str, error: float | None) -> dict:
    results: list[dict] = []
    for number, record in enumerate(line["results"], 1):
        results += _regions(predictions, line, record, f"o{number}", error)
    scores = [record["score"] for record in line["results"]]
    prediction: dict = {"model_version": "mrcnn_ext", "result": results}
    if scores:  # tasks can be sorted by it
        prediction["score"] = math.fsum(scores) / len(scores)
    data = {_IMAGE: prefix + quote(line["file"]), "image_id": line["image_id"]}
    return {"data": data, "predictions": [prediction]}


def _regions(
    predictions: Predictions, line: dict, record: dict, key: str, error: float | None
) -> Iterator[dict]:
    """The results of one object: its mask or box first, with the id ``key``."""
    label, score = [predictions.class_name(record)], record["score"]
    height, width = line["height"], line["width"]
    common = {
        "to_name": _IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "origin": "prediction",
    }

    def region(name: str, region_id: str, value: dict, labels: list[str], score: float) -> dict:
        kind = _CONTROLS[name].lower()
        head = {"id": region_id, "type": kind, "from_name": name, **common, "score": score}
        return {**head, "value": {**value, kind: labels}}

    parts = []
    has_mask = predictions.has_mask(record)
    if error is not None and has_mask:
        parts = mask_parts(record["segmentation"], error)
    if parts and not any(holes for _, holes in parts):
        for index, (ring, _) in enumerate(parts):
            points = (ring * (100 / width, 100 / height)).tolist()
            value = {"points": points, "closed": True}
            made = region("polygon", key if not index else f"{key}p{index}", value, label, score)
            yield made if not index else {**made, "parentID": key}
    elif has_mask:
        rle = encode_brush(mask_util.decode(record["segmentation"]))
        yield region("brush", key, {"format": "rle", "rle": rle}, label, score)
    else:
        x, y, w, h = record["bbox"]
        x0, y0, x1, y1 = (
            _percent(v, side) for v, side in zip((x, y, x + w, y + h), (width, height) * 2)
        )
        value = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0}
        yield region("box", key, value, label, score)
    points = record.get("keypoints") or []
    for index, name in enumerate(predictions.keypoint_names(record)):
        # Numbers of COCO as they are: so Label Studio's own converter takes them, too.
        x, y, point_score = points[3 * index : 3 * index + 3]
        value = {"x": _percent(x, width), "y": _percent(y, height), "width": _POINT_SIZE}
        made = region("keypoint", f"{key}k{index + 1}", value, [name], point_score)
        yield {**made, "parentID": key}


def _percent(value: float, side: int) -> float:
    """A coordinate as percent of the image's side; Label Studio has nothing outside of it."""
    return 100 * min(max(value / side, 0.0), 1.0)


def _interface(predictions: Predictions) -> str:
    """The labelling interface: each control with all labels that may occur."""
    categories = predictions.categories()
    classes = [category["name"] for category in categories]
    points: dict[str, None] = {}
    for category in categories:
        points |= dict.fromkeys(category.get("keypoints", ()))
    for _, record in predictions.objects():
        points |= dict.fromkeys(predictions.keypoint_names(record))
    lines = ["<View>", f'  <Image name="{_IMAGE}" value="${_IMAGE}" zoom="true"/>']
    for name, control in _CONTROLS.items():
        labels = list(points) if name == "keypoint" else classes
        if labels:
            lines.append(f'  <{control} name="{name}" toName="{_IMAGE}">')
            # The order of keypoints is what Label Studio's own converter goes by.
            order = [
                f' model_index="{i}"' if name == "keypoint" else "" for i in range(len(labels))
            ]
            lines += [
                f"    <Label value={quoteattr(la)}{more}/>" for la, more in zip(labels, order)
            ]
            lines.append(f"  </{control}>")
    return "\n".join([*lines, "</View>", ""])
