# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How well detections fit ground truth: IoU of boxes, masks and boundaries, OKS of keypoints."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_util

from ..coco.index import Detections, GroundTruth, ImageCategory
from ..errors import DataError
from .boundary import Boundary, boundary_iou, boundary_of_rle, dilation_pixels

__all__ = ["Overlaps", "keypoint_similarity"]

# No IoU threshold is lower, so that boundaries of masks that overlap less need not be looked at.
_LOWEST_THRESHOLD = 0.5


class Overlaps:
    """Overlaps of all detections with all objects of the same image and category.

    Every method takes an (image, category) pair and returns a (detections, objects) float64 array
    in the order of ``by_pair``, computed once.

    Args:
        ground_truth, detections: what to compare.
        dilation_ratio: width of boundaries, as a fraction of the image's diagonal.
        boxes_only: to masks, objects that have only a box are crowds; else they are an error.

    Attributes:
        mask_truth: the ground truth as masks are compared with it, see ``GroundTruth.for_masks``.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        detections: Detections,
        dilation_ratio: float = 0.02,
        *,
        boxes_only: bool = False,
    ) -> None:
        self.ground_truth = ground_truth
        self.mask_truth = ground_truth.for_masks() if boxes_only else ground_truth
        self.detections = detections
        self.dilation_ratio = dilation_ratio
        self.pairs = [pair for pair in detections.by_pair if pair in ground_truth.by_pair]
        self._boxes: dict[ImageCategory, np.ndarray] = {}
        self._masks: dict[ImageCategory, np.ndarray] = {}
        self._boundary_ious: dict[ImageCategory, dict[tuple[int, int], float]] = {}

    def boxes(self, pair: ImageCategory) -> np.ndarray:
        """IoU of boxes; over the detection's area for crowds."""
        if pair not in self._boxes:
            entries, objects = self.detections.by_pair[pair], self.ground_truth.by_pair[pair]
            self._boxes[pair] = mask_util.iou(
                np.array([entry["record"]["bbox"] for entry in entries], dtype=np.float64),
                np.array([entry["bbox"] for entry in objects], dtype=np.float64),
                [entry["iscrowd"] for entry in objects],
            )
        return self._boxes[pair]

    def masks(self, pair: ImageCategory) -> np.ndarray:
        """IoU of masks; over the detection's area for crowds."""
        if pair not in self._masks:
            objects = self.mask_truth.by_pair[pair]
            masks = [entry["record"]["segmentation"] for entry in self.detections.by_pair[pair]]
            for mask in masks:
                self.ground_truth.check_mask(pair[0], mask)
            self._masks[pair] = mask_util.iou(
                masks,
                [self.mask_truth.rle(entry) for entry in objects],
                [entry["iscrowd"] for entry in objects],
            )
        return self._masks[pair]

    def boundaries(self, pair: ImageCategory) -> np.ndarray:
        """The smaller of mask IoU and boundary IoU; mask IoU for crowds.

        Where the mask IoU is below every threshold, the smaller of the two is so, too: the
        boundaries are not computed there, and the mask IoU is what is returned.
        """
        overlaps = self.masks(pair).copy()
        crowds = np.array([entry["iscrowd"] for entry in self.mask_truth.by_pair[pair]])
        close = np.argwhere((overlaps >= _LOWEST_THRESHOLD) & (crowds == 0)).tolist()
        for (row, column), value in zip(close, self.boundary_ious(pair, close)):
            overlaps[row, column] = min(overlaps[row, column], value)
        return overlaps

    def boundary_ious(self, pair: ImageCategory, places: list) -> list[float]:
        """Boundary IoU of some detections and objects.

        Args:
            pair: image and category.
            places: (row, column) of each in the pair's arrays.

        Returns:
            list of float, one a place.
        """
        known = self._boundary_ious.setdefault(pair, {})
        entries, objects = self.detections.by_pair[pair], self.ground_truth.by_pair[pair]
        # The boundaries themselves are only kept while one pair is looked at: a data set's would
        # fill the memory.
        first: dict[int, Boundary] = {}
        second: dict[int, Boundary] = {}
        for row, column in places:
            if (row, column) in known:
                continue
            if row not in first:
                first[row] = self._boundary(pair, entries[row]["record"]["segmentation"])
            if column not in second:
                second[column] = self._boundary(pair, self.ground_truth.rle(objects[column]))
            known[row, column] = boundary_iou(first[row], second[column])
        return [known[row, column] for row, column in places]

    def _boundary(self, pair: ImageCategory, rle: dict) -> Boundary:
        image = pair[0]
        dilation = dilation_pixels(*self.ground_truth.size(image), self.dilation_ratio)
        try:
            return boundary_of_rle(rle, dilation)
        except ValueError as error:
            raise DataError(
                f"a mask in image id {self.ground_truth.image_ids[image - 1]!r} is damaged: {error}."
            ) from error

    def keypoints(self, pair: ImageCategory, sigmas: np.ndarray) -> np.ndarray:
        """Object keypoint similarity, as pycocotools computes it.

        Args:
            pair: image and category.
            sigmas: (K,) float64; the first K keypoints of a detection are compared.
        """
        entries, objects = self.detections.by_pair[pair], self.ground_truth.by_pair[pair]
        found = np.array([entry["record"]["keypoints"] for entry in entries], dtype=np.float64)
        found = found.reshape(len(entries), -1, 3)[:, : len(sigmas), :2]
        columns = [_oks(found, entry, sigmas) for entry in objects]
        return np.stack(columns, axis=1)


def keypoint_similarity(squares: np.ndarray, sigmas: np.ndarray, area: float) -> np.ndarray:
    """Object keypoint similarity (OKS), as pycocotools computes it.

    Args:
        squares: (..., K) squared distances to the K keypoints that count.
        sigmas: (K,).
        area: of the object, in pixels.

    Returns:
        (...) in 0 … 1.
    """
    exponent = squares / (sigmas * 2) ** 2 / (area + np.spacing(1)) / 2
    return np.exp(-exponent).sum(axis=-1) / exponent.shape[-1]


def _oks(found: np.ndarray, ground_truth_object: dict, sigmas: np.ndarray) -> np.ndarray:
    """(D,) similarities of (D, K, 2) points with one object."""
    annotation = ground_truth_object["annotation"]
    keypoints = np.array(annotation.get("keypoints") or [0] * (3 * len(sigmas)), dtype=float)
    points, visible = keypoints.reshape(-1, 3)[:, :2], keypoints[2::3] > 0
    if visible.any():
        distance = (found - points)[:, visible]
        sigmas = sigmas[visible]
    else:  # nothing is labelled: how far points are from the box, at twice its size
        x, y, width, height = ground_truth_object["bbox"]
        low, high = np.array([x - width, y - height]), np.array([x + 2 * width, y + 2 * height])
        distance = np.maximum(0, low - found) + np.maximum(0, found - high)
    return keypoint_similarity((distance**2).sum(axis=2), sigmas, ground_truth_object["area"])
