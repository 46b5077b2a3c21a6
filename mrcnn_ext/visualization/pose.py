# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Poses on a picture: limbs and points that can still be read where persons stand close.

Every object has one colour; limbs on its left side are lighter, on its right side darker, and all have
a dark rim. Lines are as wide as the object is large, and thinner the less sure a prediction is. A
filled point is visible, or predicted with some certainty; a hollow one is hidden, or predicted without.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..skeletons import SkeletonSet
from ..skeletons.names import side_of

__all__ = ["LEAST_SCORE", "draw_limb", "draw_point", "draw_poses"]

LEAST_SCORE = 0.05  # what scores less is not drawn; Detectron2's value
_SURE = 0.3  # from here on points are filled
_RIM = (25, 25, 25)
_SHIFT = 4  # fractional bits of cv2's coordinates


def draw_poses(
    canvas: np.ndarray,
    keypoints: np.ndarray,
    classes: np.ndarray,
    boxes: np.ndarray,
    colors: list[np.ndarray],
    metadata=None,
    *,
    truth: bool = False,
) -> None:
    """Draw into ``canvas``.

    Args:
        canvas: uint8 (H, W, 3), RGB.
        keypoints: (N, K, 3) x, y (continuous, in pixels of the canvas) and a score, or COCO's
            visibility: 0 not labelled, 1 hidden, 2 visible.
        classes: (N,) contiguous ids.
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the canvas; they say how large an object is.
        colors: N colours, RGB from 0 to 1.
        metadata: of the data set, for limbs and for which keypoints a class has; points alone without.
        truth: the third numbers are visibilities.
    """
    skeletons = _fitting_skeletons(metadata, keypoints)
    for own, class_id, box, color in zip(keypoints, classes, boxes, colors):
        slots, edges, sides = _skeleton_of(skeletons, int(class_id), own)
        points = own[slots]
        certainty = points[:, 2] / 2 if truth else np.clip(points[:, 2], 0, 1)
        drawn = certainty > 0 if truth else certainty >= LEAST_SCORE
        drawn &= np.isfinite(points).all(axis=1)
        filled = certainty == 1 if truth else certainty >= _SURE
        width = _line_width(box)
        limbs = []
        for a, b in edges:
            if drawn[a] and drawn[b]:
                sure = 1.0 if truth else min(1.0, min(certainty[a], certainty[b]) / _SURE)
                limbs.append((a, b, width * (0.4 + 0.6 * sure)))
        # All rims before all limbs: that of one does not cut through another.
        for a, b, line in limbs:
            rim = max(1, round(line)) + 2 * max(1, round(line / 3))
            draw_limb(canvas, points[a], points[b], rim, _RIM)
        for a, b, line in limbs:
            color_of_side = _shade(color, sides[b] or sides[a])
            draw_limb(canvas, points[a], points[b], max(1, round(line)), color_of_side)
        for index in np.flatnonzero(drawn):
            radius, line = 1 + width, max(1, round(width / 3))
            inside = (255, 255, 255) if filled[index] else _RIM
            draw_point(canvas, points[index], radius + line, _RIM)
            draw_point(canvas, points[index], radius, _shade(color, sides[index]))
            draw_point(canvas, points[index], radius / 2, inside)


def _fitting_skeletons(metadata, keypoints: np.ndarray) -> SkeletonSet | None:
    found = None if metadata is None else SkeletonSet.from_metadata(metadata)
    if found is None or len(keypoints) == 0 or found.num_keypoints != keypoints.shape[1]:
        return None
    return found


def _skeleton_of(skeletons: SkeletonSet | None, class_id: int, keypoints: np.ndarray):
    """Slots, edges between them and the side of each (1 left, -1 right, 0 neither) of a class."""
    if skeletons is None:
        return slice(None), (), [0] * len(keypoints)
    skeleton, slots = None, range(0)
    if not skeletons.class_skeletons:  # of classes nothing is known
        skeleton, slots = skeletons.skeletons[0], range(len(skeletons.skeletons[0]))
    elif class_id < skeletons.num_classes:
        skeleton, slots = skeletons.skeleton(class_id), skeletons.slots(class_id)
    if skeleton is None:
        return slice(0, 0), (), []
    sides = [side_of(name) for name in skeleton.keypoint_names]
    return slice(slots.start, slots.stop), skeleton.edge_indices, sides


def _line_width(box: np.ndarray) -> float:
    """A 50th of the object's side, from 1 to 7 pixels."""
    side = np.sqrt(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))
    return float(np.clip(side / 50, 1, 7))


def _shade(color: np.ndarray, side: int) -> tuple[float, ...]:
    color = np.asarray(color, dtype=float)[:3]
    shaded = color + 0.55 * (1 - color) if side > 0 else color * 0.62 if side < 0 else color
    return tuple(float(v) for v in 255 * shaded)


def draw_limb(canvas: np.ndarray, a: np.ndarray, b: np.ndarray, thickness: int, color) -> None:
    """A line between two points x, y (continuous, in pixels of the canvas)."""
    cv2.line(canvas, _fixed(a), _fixed(b), color, thickness, cv2.LINE_AA, _SHIFT)


def draw_point(canvas: np.ndarray, point: np.ndarray, radius: float, color) -> None:
    """A filled circle."""
    fixed = round(radius * (1 << _SHIFT))
    cv2.circle(canvas, _fixed(point), fixed, color, -1, cv2.LINE_AA, _SHIFT)


def _fixed(point: np.ndarray) -> tuple[int, int]:
    """Continuous coordinates as cv2 takes them: a pixel's centre is a whole number there."""
    x, y = np.round((point[:2] - 0.5) * (1 << _SHIFT)).clip(-(2**24), 2**24)
    return int(x), int(y)
