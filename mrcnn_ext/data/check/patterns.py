# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find mistakes that a converter makes throughout a COCO data set, by their pattern."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ...coco.rle import rle_areas, rle_box, to_rle
from ...coco.values import is_box, is_finite, is_id
from ...messages import describe, shorten
from .problem import Problem

__all__ = ["count_text", "find_patterns", "hole_findings"]

_MOST = 0.9  # share of the boxes that fit a pattern
_FEW = 3  # boxes that may fit it by chance
_LOOKED_AT = 2000  # masks whose boxes are computed
_SAME = 2.0  # pixels
_UNIT = 1.01  # normalised coordinates, with what rounding adds
_EVEN_AREA = 0.05  # by which a box's area may differ from what is stated

Sizes = dict  # image id -> (height, width) or None


def find_patterns(data: dict, sizes: Sizes) -> Iterator[Problem]:
    """Problems of the data set as a whole; each is said once, with its number and an example.

    Args:
        data: what :func:`~mrcnn_ext.coco.read.read_coco` returned.
        sizes: (height, width) of the images by id; None where they are unknown.
    """
    annotations = [a for a in data["annotations"] if isinstance(a, dict)]
    if not annotations:
        text = "there is no annotation: enough for prediction, not for training or evaluation"
        yield Problem("warning", "annotations-none", None, None, text)
        yield from _listed_twice(data["images"])
        return
    yield from _crowds(annotations)
    yield from _categories(data["categories"], annotations)
    yield from _corners(annotations, sizes)
    yield from _normalised(annotations)
    yield from _listed_twice(data["images"])
    yield from _annotated_twice(annotations)
    yield from _text_ids(annotations)


def count_text(number: int, total: int, what: str) -> str:
    """ "all 8 boxes", "5 of 8 boxes"."""
    return f"all {total} {what}" if number == total else f"{number} of {total} {what}"


# -------------------------------------------------------------------------- crowds and categories


def _crowds(annotations: list[dict]) -> Iterator[Problem]:
    """Detectron2 trains on no object whose iscrowd is 1."""
    by_category: dict = defaultdict(list)
    for annotation in annotations:
        category = annotation.get("category_id")
        by_category[category if is_id(category) else None].append(annotation)
    crowded = {c: all(a.get("iscrowd") == 1 for a in members) for c, members in by_category.items()}
    why = "have iscrowd 1: training drops them, and evaluation looks for none of them"
    if all(crowded.values()):
        text = f"all {len(annotations)} annotations {why}; write 0 for single objects"
        yield Problem("error", "crowd-all", *_ids(annotations[0]), text)
        return
    for category, members in by_category.items():
        if crowded[category]:
            text = f"all {len(members)} annotations of category {describe(category)} {why}"
            yield Problem("warning", "crowd-category", *_ids(members[0]), text)


def _categories(categories: list, annotations: list[dict]) -> Iterator[Problem]:
    known = [c for c in categories if isinstance(c, dict) and is_id(c.get("id"))]
    used = {a["category_id"] for a in annotations if is_id(a.get("category_id"))}
    for category in known:
        if category["id"] in used:
            continue
        name = f"category {describe(category.get('name'))} (id {describe(category['id'])})"
        others = [c.get("supercategory") for c in known if c is not category]
        if others and all(isinstance(o, str) and o == category.get("name") for o in others):
            text = (
                f"{name} looks like the root that an export adds: no annotation has it, and it is the "
                "supercategory of all others. It counts as a class; remove it, or never expect it"
            )
            yield Problem("warning", "category-root", None, None, text)
        else:
            text = f"{name} has no annotation"
            yield Problem("warning", "category-unused", None, None, text)


# -------------------------------------------------------------------------------- boxes and masks


def _corners(annotations: list[dict], sizes: Sizes) -> Iterator[Problem]:
    """Boxes that are [x0, y0, x1, y1]: told by the mask, else by the area, else by the image."""
    boxed = [a for a in annotations if is_box(a.get("bbox"))]
    tests: list[Callable[[dict, Sizes], bool | None]] = [_mask_says, _area_says]
    for says, what in zip(tests, ("the box of its mask", "its area")):
        answers = [(a, says(a, sizes)) for a in boxed[:_LOOKED_AT]]
        told = [(a, answer) for a, answer in answers if answer is not None]
        corners = [a for a, answer in told if answer]
        if len(corners) >= _FEW and len(corners) >= _MOST * len(told):
            text = (
                f"{count_text(len(corners), len(told), 'boxes')} fit as [x0, y0, x1, y1], going by "
                f"{what}; COCO has [x, y, width, height]. The first: {corners[0]['bbox']}"
            )
            yield Problem("error", "box-corners", *_ids(corners[0]), text)
            return
    fits: list[tuple[dict, tuple[int, int]]] = [
        (a, sizes[_image_id(a)]) for a in boxed if sizes.get(_image_id(a)) is not None
    ]
    inside = [a for a, size in fits if _corners_inside(a["bbox"], size)]
    beyond = [a for a, size in fits if _reaches_beyond(a["bbox"], size)]
    if len(beyond) >= _FEW and len(inside) == len(fits) and len(beyond) > (1 - _MOST) * len(fits):
        text = (
            f"{count_text(len(beyond), len(fits), 'boxes')} reach beyond their image, and all would be "
            "within it as [x0, y0, x1, y1]; COCO has [x, y, width, height]. The first: "
            f"{beyond[0]['bbox']}"
        )
        yield Problem("warning", "box-corners", *_ids(beyond[0]), text)


def _mask_says(annotation: dict, sizes: Sizes) -> bool | None:
    """True: corners; False: width and height; None: it cannot be told."""
    extent = _extent(annotation, sizes)
    if extent is None:
        return None
    x0, y0, x1, y1 = extent
    if max(x0, y0) <= 2 * _SAME:
        return None  # the two ways to write it are much the same
    box = np.array(annotation["bbox"], dtype=float)
    if np.abs(box - [x0, y0, x1, y1]).max() <= _SAME:
        return True
    return False if np.abs(box - [x0, y0, x1 - x0, y1 - y0]).max() <= _SAME else None


def _extent(annotation: dict, sizes: Sizes) -> list[float] | None:
    """x0, y0, x1, y1 of the mask."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list) and segmentation:
        flat = [p for p in segmentation if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
        if len(flat) < len(segmentation) or not all(all(map(is_finite, p)) for p in flat):
            return None
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in flat])
        return [*points.min(axis=0), *points.max(axis=0)]
    size = sizes.get(_image_id(annotation))
    if not isinstance(segmentation, dict) or size is None:
        return None
    try:
        x, y, w, h = rle_box(to_rle(segmentation, *size))
    except ValueError:
        return None
    return [x, y, x + w, y + h] if w and h else None


def _area_says(annotation: dict, sizes: Sizes) -> bool | None:
    area = annotation.get("area")
    if annotation.get("segmentation") or not is_finite(area) or area <= 0:
        return None
    x, y, w, h = annotation["bbox"]
    as_corners, as_size = max(w - x, 0) * max(h - y, 0), w * h
    near = [abs(value - area) <= _EVEN_AREA * area for value in (as_corners, as_size)]
    return None if near[0] == near[1] else near[0]


def _corners_inside(box: list[float], size: tuple[int, int]) -> bool:
    x, y, w, h = box
    return x < w <= size[1] + 1 and y < h <= size[0] + 1


def _reaches_beyond(box: list[float], size: tuple[int, int]) -> bool:
    return box[0] + box[2] > size[1] + 1 or box[1] + box[3] > size[0] + 1


def _normalised(annotations: list[dict]) -> Iterator[Problem]:
    """Coordinates as fractions of the image."""
    kinds: dict[str, list[tuple[dict, bool]]] = {"boxes": [], "polygons": [], "keypoints": []}
    for a in annotations:
        if is_box(a.get("bbox")):
            kinds["boxes"].append((a, max(map(abs, a["bbox"])) <= _UNIT and a["bbox"][2] < 1))
        polygons = a.get("segmentation")
        if isinstance(polygons, list) and polygons and all(isinstance(p, list) for p in polygons):
            kinds["polygons"].append((a, all(p and _are_fractions(p) for p in polygons)))
        points = a.get("keypoints")
        if isinstance(points, list) and any(points):
            places = [v for i, v in enumerate(points) if i % 3 != 2]
            kinds["keypoints"].append((a, any(places) and _are_fractions(places)))
    for kind, judged in kinds.items():
        small = [a for a, is_small in judged if is_small]
        most = len(small) >= _MOST * len(judged)
        # Single points may lie in the corner of an image.
        if small and (most or kind != "keypoints"):
            text = (
                f"{count_text(len(small), len(judged), kind)} lie within 0 … 1, as fractions of the "
                "image; COCO has pixels"
            )
            severity = "error" if most else "warning"
            yield Problem(severity, f"normalised-{kind}", *_ids(small[0]), text)


def _are_fractions(values: list) -> bool:
    return all(is_finite(value) and abs(value) <= _UNIT for value in values)


def hole_findings(polygons: list, size: tuple[int, int]) -> Iterator[tuple[str, str, str]]:
    """A finding if one polygon of an object lies within another one.

    Args:
        polygons: usable ones, [x1, y1, x2, y2, ...].
        size: (height, width) of the image.
    """
    if len(polygons) < 2:
        return
    points = [np.reshape(np.asarray(p, dtype=float), (-1, 2)) for p in polygons]
    low, high = (np.array([f(p, axis=0) for p in points]) for f in (np.min, np.max))
    # within[i, j]: the box of polygon i lies within that of j
    within = ((low[:, None] >= low[None]) & (high[:, None] <= high[None])).all(axis=-1)
    within &= ~np.eye(len(points), dtype=bool)
    for inner, outer in np.argwhere(within):
        rles = [to_rle([polygons[i]], *size) for i in (inner, outer)]
        inner_area, outer_area, both = rle_areas([*rles, mask_util.merge(rles, intersect=True)])
        if inner_area and both >= 0.98 * inner_area and inner_area < 0.98 * outer_area:
            text = (
                f"polygon {inner + 1} lies within polygon {outer + 1} of the same object; COCO fills "
                "both. If it is a hole, write the mask as RLE (INPUT.MASK_FORMAT 'bitmask')"
            )
            yield "warning", "polygon-inside", text
            return


# -------------------------------------------------------------------------------------- duplicates


def _listed_twice(images: list) -> Iterator[Problem]:
    by_file: dict[str, list] = defaultdict(list)
    for image in images:
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            by_file[os.path.normpath(image["file_name"])].append(image.get("id"))
    for name, ids in by_file.items():
        if len(ids) > 1:
            listed = shorten(map(describe, ids))
            text = f"{describe(name)} is listed {len(ids)} times, as the images {listed}"
            image_id = ids[1] if is_id(ids[1]) else None
            yield Problem("warning", "image-twice", image_id, None, text)


def _annotated_twice(annotations: list[dict]) -> Iterator[Problem]:
    first: dict[str, dict] = {}
    for annotation in annotations:
        key = repr([annotation.get(k) for k in ("image_id", "category_id", "bbox")])
        other = first.setdefault(key, annotation)
        rest = ("segmentation", "keypoints", "iscrowd")
        if other is not annotation and all(other.get(k) == annotation.get(k) for k in rest):
            text = f"the object is that of annotation {describe(other.get('id'))} again"
            yield Problem("warning", "annotation-twice", *_ids(annotation), text)


def _text_ids(annotations: list[dict]) -> Iterator[Problem]:
    texts = [a for a in annotations if isinstance(a.get("id"), str)]
    if texts:
        text = (
            f"{count_text(len(texts), len(annotations), 'annotations')} have texts as ids: "
            "Detectron2's COCOEvaluator ends with an error at the first object that is found; set "
            "MRCNN_EXT.EVALUATION.ENABLED: True, or number them from 1"
        )
        yield Problem("warning", "annotation-id-text", *_ids(texts[0]), text)


def _image_id(annotation: dict):
    value = annotation.get("image_id")
    return value if is_id(value) else None


def _ids(annotation: dict) -> tuple[Any, Any]:
    return annotation.get("image_id"), annotation.get("id")
