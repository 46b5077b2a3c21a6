# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures that show the masks of their objects, for tests of augmentations."""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

# What is brighter is object: black ground, white objects, grey padding and holes, edges in between.
LEVEL = 191
# Keypoints of two skeletons in the flat layout: middle, left and right of an object.
FLIP_INDICES = [0, 2, 1]


def star(rng: np.random.Generator, x: float, y: float, radius: float) -> np.ndarray:
    """Float (16, 2): a polygon with notches, around (x, y)."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radii = radius * rng.uniform(0.6, 1.0, size=16)
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)


def record(tmp_path, form: str, seed: int = 0, size: tuple[int, int] = (150, 200)) -> dict:
    """Two objects that do not touch, white on black, each with three keypoints.

    Args:
        form: of the masks, "polygon", "rle", or "" for none.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    annotations, whole = [], np.zeros(size, dtype=bool)
    for label, (x, y) in enumerate([(0.27 * width, 0.4 * height), (0.73 * width, 0.62 * height)]):
        radius = 0.25 * min(size)
        points = star(rng, x, y, radius)
        mask = utils.polygons_to_bitmask([points.reshape(-1)], *size)
        whole |= mask
        low, high = points.min(axis=0), points.max(axis=0)
        annotation = {
            "bbox": [*low.tolist(), *high.tolist()],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": label,
            "keypoints": [x, y, 2, x + radius / 3, y, 2, x - radius / 3, y, 2],
        }
        if form == "polygon":
            annotation["segmentation"] = [points.reshape(-1).tolist()]
        elif form == "rle":
            encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotation["segmentation"] = encoded
        annotations.append(annotation)
    file = tmp_path / f"{seed}_{height}_{width}.png"
    if not file.is_file():
        cv2.imwrite(str(file), np.repeat(255 * whole[..., None].astype(np.uint8), 3, axis=2))
    return {
        "file_name": str(file), "height": height, "width": width, "image_id": seed,
        "annotations": annotations,
    }  # fmt: skip


def dense(instances) -> np.ndarray:
    """bool (N, H, W)"""
    masks = instances.gt_masks
    if hasattr(masks, "polygons"):
        size = instances.image_size
        drawn = [utils.polygons_to_bitmask(list(p), *size) for p in masks.polygons]
        return np.array(drawn).reshape(-1, *size)
    return masks.tensor.numpy().astype(bool)


def near(shown: np.ndarray, masks: np.ndarray, pixels: int = 2) -> bool:
    """Whether two masks differ only within so many pixels of the edge of the first."""
    kernel = np.ones((2 * pixels + 1,) * 2, np.uint8)
    grown = cv2.dilate(shown.astype(np.uint8), kernel).astype(bool)
    shrunk = cv2.erode(shown.astype(np.uint8), kernel, borderValue=1).astype(bool)
    return not (masks & ~grown).any() and not (shrunk & ~masks).any()
