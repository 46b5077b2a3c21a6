# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Measure the objects of a COCO data set: boxes, areas, overlaps, what is annotated."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_util

from ...coco.rle import is_rle_list, rle_areas, rle_box, to_rle
from ...errors import DataError
from ...messages import describe

__all__ = ["Measured", "measure", "resized"]

_BLOCK = 256  # boxes whose overlaps are held at once


@dataclass
class Measured:
    """Images and objects as arrays; crowds are counted, and not among the objects.

    Attributes:
        names: of the classes, by the order of their ids.
        image_sizes: (I, 2) int64 height, width.
        image_of: (N,) int64, place of each object's image.
        label_of: (N,) int64, place of its class in ``names``.
        boxes: (N, 4) float64 x, y, width, height.
        areas: (N,) float64, pixels of masks; of boxes where there is none.
        kind_of: (N,) text: "polygons", "RLE", "" for boxes only.
        keypoints: (N,) int64, labelled ones.
        overlap: (N,) float64, largest IoU with another box of the image.
        overlap_same: (N,) float64, with one of the same class.
        crowds: number of them.
        skeletons: names of keypoints by class.
    """

    names: list[str]
    image_sizes: np.ndarray
    image_of: np.ndarray
    label_of: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    kind_of: np.ndarray
    keypoints: np.ndarray
    overlap: np.ndarray
    overlap_same: np.ndarray
    crowds: int
    skeletons: dict[str, list[str]]

    def per_image(self) -> np.ndarray:
        """(I,) objects of each image."""
        return np.bincount(self.image_of, minlength=len(self.image_sizes))


def measure(content: dict, source: str) -> Measured:
    """
    Args:
        content: a COCO data set, checked.
        source: names the file in messages.

    Raises:
        DataError: a mask is damaged; names file, image and annotation.
    """
    images, categories = content["images"], sorted(content["categories"], key=lambda c: c["id"])
    place = {image["id"]: index for index, image in enumerate(images)}
    sizes = np.array([(i["height"], i["width"]) for i in images], dtype=np.int64).reshape(-1, 2)
    label = {category["id"]: index for index, category in enumerate(categories)}
    rows, kinds, crowds = [], [], 0
    for entry in content["annotations"]:
        if entry.get("iscrowd") == 1:
            crowds += 1
            continue
        index = place[entry["image_id"]]
        box, area, kind = _extent(entry, sizes[index], source)
        labelled = sum(v > 0 for v in (entry.get("keypoints") or [])[2::3])
        rows.append((index, label[entry["category_id"]], *box, area, labelled))
        kinds.append(kind)
    table = np.array(rows, dtype=np.float64).reshape(-1, 8)
    image_of, label_of = (table[:, i].astype(np.int64) for i in (0, 1))
    boxes = table[:, 2:6]
    overlap, overlap_same = _overlaps(image_of, label_of, boxes)
    return Measured(
        names=[str(c.get("name", c["id"])) for c in categories],
        image_sizes=sizes,
        image_of=image_of,
        label_of=label_of,
        boxes=boxes,
        areas=table[:, 6],
        kind_of=np.array(kinds, dtype="U8"),
        keypoints=table[:, 7].astype(np.int64),
        overlap=overlap,
        overlap_same=overlap_same,
        crowds=crowds,
        skeletons={
            str(c.get("name", c["id"])): [str(n) for n in c["keypoints"]]
            for c in categories
            if isinstance(c.get("keypoints"), list) and c["keypoints"]
        },
    )


def _extent(entry: dict, size: np.ndarray, source: str) -> tuple[list[float], float, str]:
    """Box, area and kind of mask."""
    segmentation = entry.get("segmentation")
    rle = isinstance(segmentation, dict) or is_rle_list(segmentation)
    kind = "RLE" if rle else "polygons" if segmentation else ""
    box, area = entry.get("bbox"), entry.get("area")
    if segmentation and (box is None or area is None):
        try:
            mask = to_rle(segmentation, int(size[0]), int(size[1]))
        except ValueError as error:
            raise DataError(
                f"{source}: image {describe(entry['image_id'])}, annotation "
                f"{describe(entry.get('id'))}: {error}."
            ) from error
        box = rle_box(mask) if box is None else box
        area = rle_areas([mask])[0] if area is None else area
    assert box is not None  # an entry without either was refused
    return list(box), float(box[2] * box[3] if area is None else area), kind


def _overlaps(
    image_of: np.ndarray, label_of: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Largest IoU of each box with another one of its image; and with one of its class."""
    found, same = np.zeros(len(boxes)), np.zeros(len(boxes))
    members: dict[int, list[int]] = defaultdict(list)
    for index, image in enumerate(image_of.tolist()):
        members[image].append(index)
    for indices in members.values():
        if len(indices) < 2:
            continue
        part, labels = boxes[indices], label_of[indices]
        for start in range(
            0, len(indices), _BLOCK
        ):  # of thousands, all pairs do not fit into memory
            rows = np.arange(start, min(start + _BLOCK, len(indices)))
            # The result lies in memory column by column: a row of it is a column of ``ious``.
            ious = mask_util.iou(part, part[rows], [0] * len(rows)).T
            ious[np.arange(len(rows)), rows] = 0
            here = np.asarray(indices)[rows]
            found[here] = ious.max(axis=1)
            same[here] = np.where(labels[rows][:, None] == labels, ious, 0).max(axis=1)
    return found, same


def resized(image_sizes: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """(I,) factors by which Detectron2's ResizeShortestEdge scales images.

    Args:
        image_sizes: (I, 2) height, width.
        shortest, longest: INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN.
    """
    low, high = image_sizes.min(axis=1), image_sizes.max(axis=1)
    return np.minimum(shortest / low, longest / high)
