# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions as a COCO data set: images, categories, and annotations with scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .json_file import write_json_lists
from .options import FormOptions
from .polygons import polygons_of
from .predictions import Predictions

__all__ = ["coco_annotations", "coco_images", "write_coco", "write_coco_polygons"]


def write_coco(predictions: Predictions, folder: Path, options: FormOptions) -> None:
    """Write ``coco_dataset.json``, masks as compressed RLE."""
    _write(folder / "coco_dataset.json", predictions, None)


def write_coco_polygons(predictions: Predictions, folder: Path, options: FormOptions) -> None:
    """Write ``coco_polygons.json``: masks as polygons, those with holes as compressed RLE.

    COCO's polygons of an object are united, so that a hole has no place among them.
    """
    _write(folder / "coco_polygons.json", predictions, options.polygon_error)


def _write(file: Path, predictions: Predictions, error: float | None) -> None:
    lists = {
        "images": coco_images(predictions),
        "categories": predictions.categories(),
        "annotations": coco_annotations(predictions, polygon_error=error),
    }
    write_json_lists(file, lists)


def coco_images(predictions: Predictions) -> Iterator[dict]:
    """COCO's entries of the images, those without objects, too."""
    for line in predictions.lines:
        yield {
            "id": line["image_id"],
            "file_name": line["file"],
            "width": line["width"],
            "height": line["height"],
        }


def coco_annotations(
    predictions: Predictions, *, polygon_error: float | None = None, keypoints_only: bool = False
) -> Iterator[dict]:
    """COCO's annotations, numbered from 1, with "score".

    Their keypoints have visibility 2, as annotations must; the scores are in "keypoint_scores".

    Args:
        polygon_error: masks without holes become polygons, see
            :func:`~mrcnn_ext.results.polygons.mask_parts`; None: all are RLE.
        keypoints_only: leave out objects without keypoints.
    """
    for number, (_, record) in enumerate(predictions.objects(), 1):
        points = record.get("keypoints")
        if keypoints_only and not points:
            continue
        entry = {"id": number, **record, "area": predictions.area(record), "iscrowd": 0}
        if polygon_error is not None and record.get("segmentation"):
            found = polygons_of(record["segmentation"], polygon_error)
            entry["segmentation"] = found or record["segmentation"]
        if points:
            entry["keypoints"] = [2 if i % 3 == 2 else value for i, value in enumerate(points)]
            entry["keypoint_scores"] = points[2::3]
            entry["num_keypoints"] = len(points) // 3
        yield entry
