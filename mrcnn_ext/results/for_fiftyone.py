# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions as labels of FiftyOne's samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from detectron2.structures import Instances

from ..coco.rle import mask_crop, rle_box
from ..evaluation.records import instances_to_records
from ..skeletons import SkeletonSet
from .predictions import Predictions

if TYPE_CHECKING:
    import fiftyone

__all__ = ["FiftyOneResults", "to_fiftyone"]


class FiftyOneResults(NamedTuple):
    """Labels of one image, fields of a sample; ``keypoints`` is None where the model has none."""

    detections: fiftyone.Detections
    keypoints: fiftyone.Keypoints | None


def to_fiftyone(instances: Instances, metadata=None) -> FiftyOneResults:
    """A model's output for one image as FiftyOne's labels.

    Coordinates are fractions of the image. A detection with a mask has the mask's box, which FiftyOne
    needs to put it in its place; the predicted box is its attribute "predicted_box".

    Args:
        instances: as :func:`~mrcnn_ext.evaluation.records.instances_to_records` takes them, on any
            device. Masks that were not pasted yet stay so.
        metadata: of the data set: names of classes, and their keypoints.

    Returns:
        detections, with "index" (from 1) and "mask_score"; keypoints with the same "index".

    Raises:
        ImportError: fiftyone is not installed.
    """
    try:
        import fiftyone as fo
    except ImportError as error:
        raise ImportError("fiftyone is missing: pip install mrcnn_ext[fiftyone].") from error
    skeletons = SkeletonSet.from_metadata(metadata) if metadata is not None else None
    names = metadata.get("thing_classes") if metadata is not None else None
    records = instances_to_records(instances.to("cpu"), 0, skeletons)
    predictions = Predictions([{"results": records}], names, skeletons=skeletons)
    height, width = instances.image_size
    found, points = [], []
    for index, record in enumerate(records, 1):
        label = predictions.class_name(record)
        found.append(_detection(fo, predictions, record, index, (width, height)))
        if record.get("keypoints"):
            values = np.reshape(record["keypoints"], (-1, 3))
            # Of COCO's numbers the first pixel's centre is 0, here it is 0.5.
            places = (values[:, :2] + 0.5) / (width, height)
            points.append(
                fo.Keypoint(
                    label=label,
                    points=list(map(tuple, places.tolist())),
                    confidence=values[:, 2].tolist(),
                    index=index,
                )
            )
    with_points = instances.has("pred_keypoints")
    return FiftyOneResults(
        fo.Detections(detections=found), fo.Keypoints(keypoints=points) if with_points else None
    )


def _detection(fo, predictions: Predictions, record: dict, index: int, size: tuple[int, int]):
    more: dict = {"index": index}
    if "mask_score" in record:
        more["mask_score"] = record["mask_score"]
    box = record["bbox"]
    if predictions.has_mask(record):
        more["predicted_box"] = _fractions(box, size)
        box = rle_box(record["segmentation"])
        more["mask"] = np.ascontiguousarray(mask_crop(record["segmentation"])[2].T.astype(bool))
    return fo.Detection(
        label=predictions.class_name(record),
        bounding_box=_fractions(box, size),
        confidence=record["score"],
        **more,
    )


def _fractions(box: list[float], size: tuple[int, int]) -> list[float]:
    x, y, w, h = box
    width, height = size
    return [x / width, y / height, w / width, h / height]
