# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoints at the true boxes, and at the boxes that were found, compared with the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import BoxMode, Instances
from pycocotools import mask as mask_util
from torch import nn

from ...evaluation.matched_boxes import match_boxes
from ..mask.objects import box_ious, given_boxes, segmentation_rle

__all__ = ["KEYPOINT_QUALITIES", "PosedObject", "at_true_boxes", "match_poses", "measures"]
__all__ += ["posed_objects", "predict_keypoints"]

KEYPOINT_QUALITIES = ("box score", "keypoint score")


@dataclass
class PosedObject:
    """An annotation with labelled keypoints.

    Attributes:
        index: place in its image's annotations.
        category: contiguous id.
        box: x0, y0, x1, y1 in pixels of the image file.
        area: of the mask if there is one, else of the box.
        keypoints: (K, 3) x, y (continuous), visibility; all slots of the data set.
    """

    image_id: int | str
    index: int
    category: int
    box: list[float]
    area: float
    keypoints: np.ndarray = field(repr=False)


def posed_objects(record: dict) -> list[PosedObject]:
    """Annotations of an image with a labelled keypoint and a box with an area, crowds left out.

    Args:
        record: of a data set in Detectron2's format.
    """
    found = []
    for index, item in enumerate(record.get("annotations", [])):
        keypoints = np.reshape(item.get("keypoints") or [], (-1, 3)).astype(float)
        if item.get("iscrowd", 0) or not (keypoints[:, 2] > 0).any():
            continue
        box = [float(v) for v in BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)]
        if not _area_of_box(box) > 0:
            continue
        area, segmentation = 0.0, item.get("segmentation")
        if segmentation is not None and len(segmentation):
            rle = segmentation_rle(segmentation, record["height"], record["width"])
            area = float(mask_util.area(rle))
        found.append(
            PosedObject(
                record["image_id"],
                index,
                item["category_id"],
                box,
                area or _area_of_box(box),
                keypoints,
            )
        )
    return found


def _area_of_box(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


@torch.no_grad()
def predict_keypoints(model: nn.Module, inputs: dict, given: Instances | None = None) -> Instances:
    """A model's boxes and keypoints for one image, on the CPU, in pixels of the image file.

    Args:
        model: a GeneralizedRCNN in evaluation mode.
        inputs: of one image, as a mapper makes them.
        given: boxes for which keypoints are wanted; None detects.
    """
    (raw,) = model.inference(  # type: ignore[operator]
        [inputs], None if given is None else [given], do_postprocess=False
    )
    if raw.has("pred_masks"):
        raw.remove("pred_masks")  # pasting them is not for nothing
    return detector_postprocess(raw, inputs["height"], inputs["width"]).to("cpu")


def measures(one: PosedObject, found: np.ndarray, sigmas: np.ndarray) -> dict[str, float]:
    """How near predicted keypoints are, over those of an object that are labelled.

    Args:
        found: (K, 2) x, y.
        sigmas: (K,) of OKS.

    Returns:
        "oks" (COCO's, 0 to 1); "pixels", the mean distance; "error", the same over the square root of
        the box's area; "pck05" and "pck10", the share within .05 and .1 of that square root.
    """
    labelled = one.keypoints[:, 2] > 0
    distance = np.linalg.norm(found - one.keypoints[:, :2], axis=1)[labelled]
    variance = one.area * (2 * sigmas[labelled]) ** 2
    side = np.sqrt(_area_of_box(one.box))
    return {
        "oks": float(np.exp(-(distance**2) / (2 * variance)).mean()),
        "pixels": float(distance.mean()),
        "error": float(distance.mean() / side),
        "pck05": float((distance <= 0.05 * side).mean()),
        "pck10": float((distance <= 0.1 * side).mean()),
    }


def at_true_boxes(
    model: nn.Module, records: Sequence[dict], mapper
) -> Iterator[tuple[PosedObject, np.ndarray]]:
    """Each object with the (K, 3) keypoints that the model gives for its box and class."""
    for record in records:
        objects = posed_objects(record)
        if not objects:
            continue
        inputs = mapper(record)
        given = given_boxes(inputs, objects)
        given.place = torch.arange(len(given))
        output = predict_keypoints(model, inputs, given)
        # Postprocessing drops boxes that are empty; what is said for them is their middle
        found = dict(zip(output.place.tolist(), output.pred_keypoints.numpy()))
        for place, one in enumerate(objects):
            middle = [(one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2, 0.0]
            yield one, found.get(place, np.tile(middle, (len(one.keypoints), 1)))


def match_poses(
    output: Instances, objects: Sequence[PosedObject], sigmas: np.ndarray, class_keypoints
) -> list[dict[str, float]]:
    """Detections whose box has an IoU of 0.5 or more with an object of their class.

    Args:
        class_keypoints: (classes, K) bool, or None for all.

    Returns:
        for each: "oks", and what it may be scored by (``KEYPOINT_QUALITIES``).
    """
    rows = []
    for category in {x.category for x in objects}:
        chosen = np.flatnonzero(output.pred_classes.numpy() == category)
        wanted = [x for x in objects if x.category == category]
        if not len(chosen):
            continue
        overlaps = box_ious(output.pred_boxes.tensor.numpy()[chosen], [x.box for x in wanted])
        scores = output.scores.numpy()[chosen]
        for row, column in match_boxes(overlaps, scores, np.zeros(len(wanted), bool), 0.5):
            found = output.pred_keypoints[int(chosen[row])].numpy()
            own = slice(None) if class_keypoints is None else class_keypoints[category]
            rows.append(
                {
                    "oks": measures(wanted[column], found[:, :2], sigmas)["oks"],
                    "box score": float(scores[row]),
                    "keypoint score": float(found[own, 2].mean()),
                }
            )
    return rows
