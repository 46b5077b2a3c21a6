# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find what is wrong with the box, mask and keypoints of one COCO annotation.

Each function yields findings, ``(severity, kind, message)``; who calls adds the ids.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...coco.rle import is_rle_list, rle_areas, rle_box, to_rle
from ...coco.values import is_box, is_finite, is_number
from ...messages import describe
from .patterns import hole_findings
from .problem import Finding

__all__ = ["box_findings", "keypoint_findings", "mask_findings"]

# Annotation tools round, and put borders on pixel centres or corners.
_BORDER = 1.0  # pixels
_BOX_IOU = 0.5  # mask's box against bbox
_BOX_SLACK = 2.0  # pixels: below, a low IoU is the rounding of a tiny object
_SPECK = 2.0  # pixels, length of a polygon that may cover no pixel
_AREA_RATIO, _AREA_SLACK = 0.2, 16.0  # both must be exceeded; the slack in pixels


# ------------------------------------------------------------------------------------------- box


def box_findings(annotation: dict, size: tuple[int, int] | None) -> Iterator[Finding]:
    """Findings about ``annotation["bbox"]``, XYWH in pixels.

    Args:
        annotation: a COCO annotation.
        size: (height, width) of its image, or None where that is unknown.
    """
    box = annotation.get("bbox")
    if box is None:
        yield "error", "box-missing", "there is no bbox"
        return
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        yield "error", "box-format", f"bbox is {describe(box)}, not 4 numbers [x, y, width, height]"
        return
    if not all(map(is_finite, box)):
        yield "error", "box-not-finite", f"bbox {box} has NaN or infinite numbers"
        return
    x, y, w, h = box
    if w <= 0 or h <= 0:
        yield "error", "box-empty", f"bbox {box} has width {w:g} and height {h:g}"
    elif size is not None:
        height, width = size
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            text = f"bbox {box} lies outside the image of {width}x{height} pixels"
            yield "error", "box-outside", text
            return
        over = max(-x, -y, x + w - width, y + h - height)
        if over > _BORDER:
            text = f"bbox {box} reaches {over:.1f} px beyond the image of {width}x{height} pixels"
            yield "warning", "box-partly-outside", text


def _good_box(annotation: dict) -> np.ndarray | None:
    box = annotation.get("bbox")
    if not is_box(box):
        return None
    return np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]], dtype=float)


# ------------------------------------------------------------------------------------------ mask


def mask_findings(annotation: dict, size: tuple[int, int] | None) -> Iterator[Finding]:
    """Findings about a ``segmentation`` that is there and not empty, and about ``area``.

    Args:
        annotation: a COCO annotation.
        size: (height, width) of its image; None: nothing that needs it is looked at.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        found = yield from _rle(segmentation, size)
    elif is_rle_list(segmentation):
        found = yield from _rles(segmentation, size)
    elif isinstance(segmentation, list):
        found = yield from _polygons(segmentation, size)
    else:
        text = f"segmentation is {describe(segmentation)}, neither a list of polygons nor an RLE"
        yield "error", "segmentation-format", text
        return
    if found is None or size is None:
        return
    area, box = found
    if area == 0:
        # COCO itself has specks that cover no pixel centre; training copes with them.
        speck = isinstance(segmentation, list) and (box[2:] - box[:2]).max() <= _SPECK
        text = "no pixel of the image belongs to the mask" + (", a speck" if speck else "")
        yield "warning" if speck else "error", "mask-empty", text
        return
    yield from _compare(annotation, area, box, size)


def _compare(annotation: dict, area: float, box: np.ndarray, size) -> Iterator[Finding]:
    """The mask's pixel count and its box (XYXY) against the fields ``area`` and ``bbox``."""
    stated = annotation.get("area")
    if is_finite(stated) and stated >= 0:
        difference = abs(area - stated)
        if difference > _AREA_SLACK and difference > _AREA_RATIO * max(area, stated):
            text = f"area is {stated:g}, but the mask has {area:.0f} pixels"
            yield "warning", "mask-area-mismatch", text
    other = _good_box(annotation)
    if other is None:
        return
    # A part outside the image is the box's own problem; here only what can be seen counts.
    limit = np.array([size[1], size[0], size[1], size[0]], dtype=float)
    box, other = np.clip(box, 0, limit), np.clip(other, 0, limit)
    if (other[2:] <= other[:2]).any() or np.abs(box - other).max() <= _BOX_SLACK:
        return
    sides = np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None)
    inter = sides.prod()
    iou = inter / ((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - inter)
    if iou < _BOX_IOU:
        text = (
            f"the mask's box is {_xywh(box)}, bbox is {annotation['bbox']}: their IoU is {iou:.2f}"
        )
        yield "warning", "mask-box-mismatch", text


def _polygons(polygons: list, size):
    """Yield findings; return (pixels, XYXY box) of the union of the polygons that can be used."""
    if not all(isinstance(p, list) for p in polygons):
        text = "segmentation must be a list of polygons, each a list [x1, y1, x2, y2, ...]"
        yield "error", "segmentation-format", text
        return None
    good, low, high = [], [], []
    bad: list[Finding] = []
    for polygon in polygons:
        points, finding = _points(polygon)
        if finding is not None:
            bad.append(finding)
            continue
        good.append(polygon)
        low.append(points.min(axis=0))
        high.append(points.max(axis=0))
    dropped = {kind for _, kind, _ in bad} <= {"polygon-odd", "polygon-short"}
    fate = ", here with the whole instance, which has no other" if dropped and not good else ""
    for severity, kind, message in bad:
        yield severity, kind, message + fate
    if not good or size is None:
        return None
    box = np.concatenate([np.min(low, axis=0), np.max(high, axis=0)])
    height, width = size
    # Far outside, drawing costs memory in proportion to the length of the outline.
    if np.abs(box).max() > 8 * max(height, width):
        text = f"polygon reaches to {_xywh(box)}, far from the image of {width}x{height} pixels"
        yield "error", "mask-outside", text
        return None
    yield from hole_findings(good, size)
    return float(rle_areas([to_rle(good, height, width)])[0]), box


def _points(polygon: list) -> tuple[np.ndarray, Finding | None]:
    dropped = "; Detectron2 drops such polygons silently"
    try:
        points = np.asarray(polygon)
    except (ValueError, OverflowError):
        points = np.empty(0, dtype=object)
    if len(polygon) and (points.ndim != 1 or points.dtype.kind not in "iuf"):
        text = "a polygon is not a flat list of numbers [x1, y1, x2, y2, ...]"
        return points, ("error", "segmentation-format", text)
    if len(polygon) % 2:
        text = f"a polygon has {len(polygon)} coordinates, an odd number{dropped}"
        return points, ("error", "polygon-odd", text)
    if len(polygon) < 6:
        text = f"a polygon has {len(polygon) // 2} points, at least 3 are needed{dropped}"
        return points, ("error", "polygon-short", text)
    if not np.isfinite(points).all():
        text = "a polygon has NaN or infinite coordinates"
        return points, ("error", "polygon-not-finite", text)
    return points.reshape(-1, 2), None


def _rles(parts: list, size):
    """:func:`_rle` of a list of them, whose union is the mask."""
    for part in parts:
        if not isinstance(part, dict):
            text = f"segmentation mixes RLE and {describe(part)}"
            yield "error", "segmentation-format", text
            return None
        if (yield from _rle(part, size)) is None:
            return None
    return (yield from _rle(to_rle(parts, *size), size))


def _rle(rle: dict, size):
    """Yield findings; return (pixels, XYXY box) of the mask."""
    shape = rle.get("size")
    if not isinstance(shape, (list, tuple)) or len(shape) != 2 or "counts" not in rle:
        text = "an RLE needs size [height, width] and counts"
        yield "error", "segmentation-format", text
        return None
    if size is not None and (tuple(shape) != size or not all(type(s) is int for s in shape)):
        text = f"the RLE's size [height, width] is {shape}, the image's is {list(size)}"
        yield "error", "rle-size", text
        return None
    if size is None:
        return None
    try:
        rle = to_rle(rle, *size)
    except ValueError as error:
        yield "error", "rle-invalid", f"the RLE cannot be decoded: {error}"
        return None
    x, y, w, h = rle_box(rle)
    return float(rle_areas([rle])[0]), np.array([x, y, x + w, y + h])


# ------------------------------------------------------------------------------------- keypoints


def keypoint_findings(
    annotation: dict, expected: int | None, size: tuple[int, int] | None
) -> Iterator[Finding]:
    """Findings about ``keypoints``, a list [x1, y1, v1, x2, ...] that is there and not empty.

    Args:
        annotation: a COCO annotation.
        expected: number of keypoints its category names, or None.
        size: (height, width) of its image, or None.
    """
    keypoints = annotation["keypoints"]
    if not isinstance(keypoints, list) or not all(map(is_number, keypoints)):
        yield "error", "keypoints-format", "keypoints is not a list of numbers [x1, y1, v1, ...]"
        return
    length = len(keypoints)
    if length % 3 or (expected and length != 3 * expected):
        wanted = f"3 x {expected} of its category" if expected else "3 for each keypoint"
        yield "error", "keypoints-length", f"keypoints has {length} numbers instead of {wanted}"
        return
    if not all(map(is_finite, keypoints)):
        yield "error", "keypoints-not-finite", "keypoints has NaN or infinite numbers"
        return
    yield from _keypoint_values(annotation, size)


def _keypoint_values(annotation: dict, size) -> Iterator[Finding]:
    values = annotation["keypoints"]
    xs, ys, vs = values[0::3], values[1::3], values[2::3]
    strange = sorted({v for v in vs if v not in (0, 1, 2)})
    if strange:
        text = f"visibility is {strange}; 0, 1 and 2 have a meaning"
        yield "error", "keypoints-visibility", text
    labelled = [(x, y) for x, y, v in zip(xs, ys, vs) if v > 0]
    unlabelled = sum(v == 0 and (x != 0 or y != 0) for x, y, v in zip(xs, ys, vs))
    if unlabelled:
        text = f"{unlabelled} keypoints with visibility 0 (not labelled) have coordinates"
        yield "warning", "keypoints-unlabelled", text
    count = annotation.get("num_keypoints")
    if count is None:
        text = "there is no num_keypoints; COCO's evaluation of keypoints needs it"
        yield "warning", "num-keypoints-missing", text
    elif count != len(labelled):
        text = f"num_keypoints is {describe(count)}, {len(labelled)} keypoints have visibility > 0"
        yield "warning", "num-keypoints-mismatch", text
    if size is None or not labelled:
        return
    height, width = size
    over = max(max(-x, -y, x - width, y - height) for x, y in labelled)
    if over > _BORDER:
        text = f"a labelled keypoint lies {over:.1f} px outside the image of {width}x{height} px"
        yield "warning", "keypoints-outside", text


def _xywh(box: np.ndarray) -> list[float]:
    return [round(float(v), 1) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
