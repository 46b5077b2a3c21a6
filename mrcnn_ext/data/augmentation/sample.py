# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A training sample on its way through augmentations: the picture and its objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from fvcore.transforms.transform import Transform, TransformList
from pycocotools import mask as mask_util

from ...coco.rle import to_rle
from .by_band import BandInput
from .polygons import clip_polygon, polygon_area

__all__ = ["Sample", "SampleAugmentation", "mask_area", "mask_box"]

# Transforms that change colours only
_PHOTOMETRIC = (T.NoOpTransform, T.BlendTransform, T.ColorTransform)
# Transforms that lose nothing of an object, and make a tight box of a tight box
_LOSSLESS = (T.HFlipTransform, T.VFlipTransform, T.ResizeTransform, T.PadTransform)


class SampleAugmentation:
    """An augmentation that needs more than one picture, such as copy-paste."""

    needs_bitmasks = True

    def apply(self, sample: Sample, draw_other: Callable[[], Sample]) -> None:
        """Augment ``sample`` in place.

        Args:
            draw_other: gives another random sample of the data set, which went through the
                augmentations that come before this one with random numbers of its own.
        """
        raise NotImplementedError


class Sample:
    """
    Attributes:
        image: (H, W, C).
        objects: annotations in Detectron2's form, without crowds. "bbox" is float64 (4,), XYXY_ABS;
            "segmentation" a list of polygons, float64 (N, 2), or a mask, uint8 (H, W), 0 and 1, and
            missing for an object without one; "keypoints" float64 (K, 3).
        sem_seg: (H, W), or None.
        transforms: what was done to the picture.
        boxes_change: boxes are no longer those of the annotations: something was cut.
    """

    def __init__(
        self,
        image: np.ndarray,
        annotations: Sequence[dict] = (),
        *,
        sem_seg: np.ndarray | None = None,
        flip_indices: Sequence[int] | None = None,
        by_band: bool = False,
    ) -> None:
        """
        Args:
            annotations: of a record of a data set; they are not changed.
            flip_indices: which keypoint each becomes in a mirrored picture.
            by_band: the channels may be any bands; see :class:`BandInput`.
        """
        self.image, self.sem_seg = image, sem_seg
        self.transforms: list[Transform] = []
        self.boxes_change = False
        self._input = BandInput if by_band else T.AugInput
        self._flip_indices = None if flip_indices is None else np.asarray(flip_indices)
        size = self.image.shape[:2]
        self.objects = [_read(a, *size) for a in annotations if not a.get("iscrowd", 0)]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.image.shape[0], self.image.shape[1]

    def augment(self, augmentation: T.Augmentation) -> None:
        """Apply an augmentation to the picture and to the objects."""
        size = self.size
        boxes = None
        if not getattr(augmentation, "ignores_boxes", False):
            boxes = np.array([o["bbox"] for o in self.objects], dtype=float).reshape(-1, 4)
        given = self._input(self.image, boxes=boxes, sem_seg=self.sem_seg)
        transform = augmentation(given)
        self.image, self.sem_seg = given.image, given.sem_seg
        steps = list(_flattened(transform))
        for index, step in enumerate(steps):
            if isinstance(step, _PHOTOMETRIC):
                continue
            if getattr(step, "needs_bitmasks", False):
                self.rasterise(size)
            before = size
            size = self.size if index == len(steps) - 1 else _output_size(step, size)
            self._transform_objects(step, before, size)
        self.transforms += steps

    def rasterise(self, size: tuple[int, int] | None = None) -> None:
        """Make masks of polygons, of (height, width)."""
        for each in self.objects:
            if isinstance(each.get("segmentation"), list):
                flat = [points.reshape(-1) for points in each["segmentation"]]
                mask = utils.polygons_to_bitmask(flat, *(size or self.size))
                each["segmentation"] = mask.astype(np.uint8)

    def drop_small(self, least: float) -> None:
        """Drop objects of which less than so many pixels are there."""
        self.objects = [o for o in self.objects if object_area(o) >= least]

    def _transform_objects(
        self, step: Transform, before: tuple[int, int], size: tuple[int, int]
    ) -> None:
        loses = not isinstance(step, _LOSSLESS) and getattr(step, "cuts_objects", True)
        mirrored = None
        masked = [o for o in self.objects if isinstance(o.get("segmentation"), np.ndarray)]
        for each, moved in zip(masked, _moved_masks(step, [o["segmentation"] for o in masked])):
            # Detectron2 pads segmentations with 255, the label of pixels to ignore.
            each["segmentation"] = (moved == 1).view(np.uint8)
        for each in self.objects:
            masks = each.get("segmentation")
            if masks is None or not loses:  # else it will be that of the mask
                each["bbox"] = step.apply_box(each["bbox"][None])[0]
            if isinstance(masks, list):
                # Not apply_polygons: that of Detectron2's crop needs shapely.
                polygons = [step.apply_coords(points) for points in masks]
                each["segmentation"] = _clipped(polygons, size) if loses else polygons
            if "keypoints" in each:
                if mirrored is None:
                    mirrored = _is_mirrored(step, before)
                self._move_keypoints(each, step, size, mirrored)
        if loses:
            self.boxes_change = True
            self.tighten()

    def tighten(self) -> None:
        """Boxes from masks, cut off at the edges where there are none; drop less than a pixel."""
        for each in self.objects:
            if each.get("segmentation") is not None:
                each["bbox"] = mask_box(each["segmentation"])
            else:
                each["bbox"] = clipped_box(each["bbox"], self.size)
        self.objects = [
            o for o in self.objects if (o["bbox"][2:] > o["bbox"][:2]).all() and object_area(o) >= 1
        ]

    def _move_keypoints(
        self, each: dict, step: Transform, size: tuple[int, int], mirrored: bool
    ) -> None:
        points = each["keypoints"]
        points[:, :2] = step.apply_coords(points[:, :2].copy())
        # Also of points that are not a number
        inside = (points[:, :2] >= 0) & (points[:, :2] <= size[::-1])
        points[~inside.all(axis=1), 2] = 0
        points[points[:, 2] == 0] = 0
        hidden = getattr(step, "hidden", None)
        if hidden is not None:
            hide_keypoints(points, hidden)
        if mirrored:
            if self._flip_indices is None:
                raise ValueError("a picture with keypoints is mirrored without keypoint_flip_map")
            if len(self._flip_indices) != len(points):
                raise ValueError(
                    f"an object has {len(points)} keypoints, but keypoint_flip_map in the data set's "
                    f"metadata is for {len(self._flip_indices)}"
                )
            points = points[self._flip_indices]
        each["keypoints"] = points


def _read(annotation: dict, height: int, width: int) -> dict:
    out = dict(annotation)
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    out["bbox"], out["bbox_mode"] = np.array(box, dtype=float), BoxMode.XYXY_ABS
    masks = annotation.get("segmentation")
    if isinstance(masks, (list, tuple)) and len(masks):
        out["segmentation"] = [np.array(p, dtype=float).reshape(-1, 2) for p in masks]
    elif isinstance(masks, dict):
        rle = masks if isinstance(masks["counts"], (str, bytes)) else to_rle(masks, height, width)
        out["segmentation"] = mask_util.decode(rle)
    elif isinstance(masks, np.ndarray):
        out["segmentation"] = (masks != 0).astype(np.uint8)
    elif masks is not None and not isinstance(masks, (list, tuple)):
        raise ValueError(f"a segmentation is {type(masks).__name__}; expected polygons or RLE")
    else:
        out.pop("segmentation", None)
    if "keypoints" in annotation:
        out["keypoints"] = np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)
    return out


def _flattened(transform: Transform) -> Iterator[Transform]:
    if isinstance(transform, TransformList):
        for each in transform.transforms:
            yield from _flattened(each)
    else:
        yield transform


def _output_size(step: Transform, size: tuple[int, int]) -> tuple[int, int]:
    return step.apply_segmentation(np.zeros(size, dtype=np.uint8)).shape[:2]


def _moved_masks(step: Transform, masks: list[np.ndarray]) -> list[np.ndarray]:
    if hasattr(step, "apply_segmentations"):
        return step.apply_segmentations(masks)
    return [step.apply_segmentation(mask) for mask in masks]


def _clipped(polygons: list[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    clipped = (clip_polygon(points, *size) for points in polygons)
    return [points for points in clipped if len(points)]


def _is_mirrored(step: Transform, size: tuple[int, int]) -> bool:
    """Whether left becomes right: a triangle in the middle is then run through backwards."""
    x, y = size[1] / 2, size[0] / 2
    corners = np.array([[x, y], [1.25 * x, y], [x, 1.25 * y]])
    # Points that the transform loses are not a number.
    (a, b), (c, d) = np.diff(step.apply_coords(corners)[[0, 1, 0, 2]], axis=0)[::2]
    return bool(a * d - b * c < 0)


def hide_keypoints(points: np.ndarray, hidden: np.ndarray) -> None:
    """Make visible keypoints hidden where something lies over them, in place.

    Args:
        points: float (K, 3); v = 2 becomes 1.
        hidden: bool (H, W).
    """
    height, width = hidden.shape
    x = np.clip(points[:, 0].astype(int), 0, width - 1)
    y = np.clip(points[:, 1].astype(int), 0, height - 1)
    points[(points[:, 2] == 2) & hidden[y, x], 2] = 1


def clipped_box(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A box, XYXY, cut off at the edges of a picture of (height, width)."""
    return np.minimum(box.clip(min=0), (*size, *size)[::-1])


def mask_box(mask: list[np.ndarray] | np.ndarray) -> np.ndarray:
    """The box around a mask or its polygons: float64 (4,), XYXY; zeros if there is nothing."""
    if isinstance(mask, list):
        if not mask:
            return np.zeros(4)
        points = np.concatenate(mask)
        return np.concatenate([points.min(axis=0), points.max(axis=0)])
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)


def mask_area(mask: list[np.ndarray] | np.ndarray) -> float:
    """Pixels of a mask, or the area of its polygons."""
    if isinstance(mask, list):
        return float(sum(polygon_area(points) for points in mask))
    return float(np.count_nonzero(mask))


def object_area(each: dict) -> float:
    """Pixels of an object's mask; of its box where it has none."""
    if each.get("segmentation") is not None:
        return mask_area(each["segmentation"])
    return float(np.prod(each["bbox"][2:] - each["bbox"][:2]))
