# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Objects with keypoints, how far predictions are from them, and detections that match them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from detectron2.structures import Instances

from ...coco.rle import rle_areas, to_rle
from ...evaluation.matched_boxes import match_instances
from ...evaluation.overlaps import keypoint_similarity
from ..objects import TrueBox, annotated_boxes

__all__ = ["KEYPOINT_QUALITIES", "PosedObject", "match_poses", "measures", "posed_objects"]

KEYPOINT_QUALITIES = ("box score", "keypoint score")


@dataclass
class PosedObject(TrueBox):
    """An annotation with labelled keypoints.

    Attributes:
        keypoints: (K, 3) x, y (continuous), visibility; all slots of the data set.
        side: square root of the box's area.
    """

    keypoints: np.ndarray = field(repr=False)
    side: float


def posed_objects(record: dict) -> list[PosedObject]:
    """Annotations of an image with a labelled keypoint and a box with an area, crowds left out.

    Args:
        record: of a data set in Detectron2's format.
    """
    found = []
    for item, one in annotated_boxes(record):
        keypoints = np.reshape(item.get("keypoints") or [], (-1, 3)).astype(float)
        if not (keypoints[:, 2] > 0).any() or not one.area > 0:
            continue
        side, segmentation = one.area**0.5, item.get("segmentation")
        if segmentation is not None and len(segmentation):
            rle = to_rle(segmentation, record["height"], record["width"])
            one.area = float(rle_areas([rle])[0]) or one.area
        found.append(PosedObject(**vars(one), keypoints=keypoints, side=side))
    return found


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
    return {
        "oks": float(keypoint_similarity(distance**2, sigmas[labelled], one.area)),
        "pixels": float(distance.mean()),
        "error": float(distance.mean() / one.side),
        "pck05": float((distance <= 0.05 * one.side).mean()),
        "pck10": float((distance <= 0.1 * one.side).mean()),
    }


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
    boxes, classes = [x.box for x in objects], [x.category for x in objects]
    for row, place in match_instances(output, boxes, classes):
        one, found = objects[place], output.pred_keypoints[row].numpy()
        own = slice(None) if class_keypoints is None else class_keypoints[one.category]
        rows.append(
            {
                "oks": measures(one, found[:, :2], sigmas)["oks"],
                "box score": float(output.scores[row]),
                "keypoint score": float(found[own, 2].mean()),
            }
        )
    return rows
