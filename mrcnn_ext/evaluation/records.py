# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions in COCO's result format: from a model's output, and from a file."""

from __future__ import annotations

import json
import math
import os

from detectron2.structures import BoxMode, Instances

from ..coco.rle import rle_runs
from ..errors import DataError
from ..skeletons import SkeletonSet
from ..structures import instance_rles
from .class_keypoints import cut_to_class

__all__ = ["instances_to_records", "read_records"]


def instances_to_records(
    instances: Instances, image_id, skeletons: SkeletonSet | None = None
) -> list[dict]:
    """A model's output for one image, without changing it.

    Args:
        instances: on the CPU, with "pred_boxes", "scores", "pred_classes", and optionally masks,
            "mask_scores" (n,) and "pred_keypoints" (n, K, 3).
        image_id: of the image.
        skeletons: of the model's classes; None: all classes have all K keypoints.

    Returns:
        One dict a detection: "image_id", "category_id" (the model's class), "bbox" (XYWH), "score",
        and "segmentation" (compressed RLE), "mask_score", "keypoints" (those of the class, three
        numbers each; as in COCO, whole numbers are centres of pixels) where there is such a thing.

    Raises:
        DataError: the keypoints are not those of the skeletons.
    """
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    records = [
        {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
        for label, box, score in zip(
            instances.pred_classes.tolist(), boxes.tolist(), instances.scores.tolist()
        )
    ]
    rles = _rles(instances)
    if rles is not None:
        for record, rle in zip(records, rles):
            record["segmentation"] = rle
    if instances.has("mask_scores"):
        for record, score in zip(records, instances.mask_scores.tolist()):
            record["mask_score"] = score
    if instances.has("pred_keypoints"):
        keypoints = instances.pred_keypoints.clone()
        keypoints[:, :, :2] -= 0.5
        for record, points in zip(records, keypoints.tolist()):
            own = cut_to_class(points, record["category_id"], skeletons)
            if own is not None:
                record["keypoints"] = [number for point in own for number in point]
    return records


def _rles(instances: Instances) -> list[dict] | None:
    """Masks as RLE with str counts, or None if there are none."""
    rles = instance_rles(instances)
    if rles is None:
        return None
    return [{"size": list(r["size"]), "counts": _text(r["counts"])} for r in rles]


def _text(counts: str | bytes) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def read_records(path: str | os.PathLike, sizes: dict) -> list[dict]:
    """A file of predictions, looked through before anything trusts it.

    Args:
        path: a json as Detectron2's and this package's evaluators write it.
        sizes: image id -> (height, width), of the ground truth.

    Returns:
        list of dict, see :func:`instances_to_records`.

    Raises:
        DataError: names the file, and where the damage is.
    """
    try:
        with open(path, encoding="utf-8") as file:
            records = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(
            f"{path}: is no whole json file ({error}); was writing it cut off?"
        ) from error
    if not isinstance(records, list):
        raise DataError(
            f"{path}: expected a list of predictions, found a {type(records).__name__}."
        )
    for index, record in enumerate(records):
        problem = _problem(record, sizes)
        if problem:
            image = record.get("image_id") if isinstance(record, dict) else None
            raise DataError(f"{path}: prediction {index} (image id {image!r}) {problem}.")
    return records


def _problem(record, sizes: dict) -> str | None:
    """What is wrong with a record; None if nothing is. Ids are checked elsewhere."""
    if not isinstance(record, dict):
        return f"is a {type(record).__name__}, expected an object"
    for key in ("image_id", "category_id", "score"):
        if key not in record:
            return f"has no '{key}'"
    if not isinstance(record["image_id"], (int, str)):
        return f"has the 'image_id' {record['image_id']!r}, expected a number or a string"
    for key in ("score", "mask_score"):
        if key in record and not _numbers([record[key]]):
            return f"has the '{key}' {record[key]!r}, expected a finite number"
    if "bbox" in record and not (_numbers(record["bbox"]) and len(record["bbox"]) == 4):
        return f"has the 'bbox' {record['bbox']!r}, expected four finite numbers"
    if "keypoints" in record:
        points = record["keypoints"]
        if not (_numbers(points) and len(points) % 3 == 0):
            return "has 'keypoints' that are not three finite numbers each"
    if "segmentation" in record:
        return _mask_problem(record["segmentation"], sizes.get(record["image_id"]))
    return None


def _numbers(values) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


def _mask_problem(rle, size: tuple[int, int] | None) -> str | None:
    if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
        return "has a 'segmentation' that is no RLE with 'size' and 'counts'"
    if size is not None and list(rle["size"]) != list(size):
        return (
            f"has a mask of {rle['size'][1]} x {rle['size'][0]} pixels, but the image has "
            f"{size[1]} x {size[0]}"
        )
    try:
        rle_runs(rle)
    except (ValueError, TypeError) as error:
        return f"has a damaged mask: {error}"
    return None
