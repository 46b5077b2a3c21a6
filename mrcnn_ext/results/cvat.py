# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions for CVAT, which imports "COCO 1.0" and "COCO Keypoints 1.0"."""

from __future__ import annotations

from pathlib import Path

from .coco import coco_annotations, coco_images
from .json_file import write_json_lists
from .options import FormOptions
from .predictions import Predictions

__all__ = ["write_cvat"]

_OBJECTS = "instances_default.json"
_KEYPOINTS = "person_keypoints_default.json"  # so it is called whatever the class


def write_cvat(predictions: Predictions, folder: Path, options: FormOptions) -> None:
    """Write ``cvat/annotations/``: the objects, and the keypoints where there are any.

    CVAT reads keypoints from a file of their own only, which has the classes that have a skeleton, and
    no masks. Masks are polygons, those with holes RLE, which CVAT shows as masks.
    """
    target = folder / "cvat" / "annotations"
    categories = predictions.categories()
    plain = [{"id": c["id"], "name": c["name"], "supercategory": ""} for c in categories]
    error = options.polygon_error
    write_json_lists(
        target / _OBJECTS,
        {
            "images": coco_images(predictions),
            "categories": plain,
            "annotations": map(
                _without_keypoints, coco_annotations(predictions, polygon_error=error)
            ),
        },
    )
    posed = [{**c, "supercategory": ""} for c in categories if c.get("keypoints")]
    if not posed:
        (target / _KEYPOINTS).unlink(missing_ok=True)  # of an earlier call with other classes
        return
    known = {category["id"] for category in posed}
    found = coco_annotations(predictions, keypoints_only=True)
    write_json_lists(
        target / _KEYPOINTS,
        {
            "images": coco_images(predictions),
            "categories": posed,
            "annotations": (_without_mask(a) for a in found if a["category_id"] in known),
        },
    )


def _without_keypoints(entry: dict) -> dict:
    return {key: value for key, value in entry.items() if "keypoint" not in key}


def _without_mask(entry: dict) -> dict:
    return {key: value for key, value in entry.items() if key != "segmentation"}
