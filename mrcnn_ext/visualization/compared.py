# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""One object, as predicted, over the truth: masks and keypoints with their errors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .colors import rgb
from .pose import draw_limb, draw_point
from .primitives import Patch, contours, outline, tint

__all__ = ["KEYPOINT_COLORS", "MASK_COLORS", "compared_keypoints", "compared_masks"]

MASK_COLORS = {"right": "#2fa84f", "false_positive": "#e02b2b", "false_negative": "#3d7eff"}
KEYPOINT_COLORS = {"truth": "#ffffff", "predicted": "#2fa84f", "error": "#e02b2b"}
_WHITE = (255, 255, 255)


def compared_masks(picture: np.ndarray, mask: Patch, truth: Patch) -> np.ndarray:
    """A pale copy of a picture with what is right in a mask, what is too much, and what is missing.

    Args:
        picture: uint8 (H, W, 3), RGB.
        mask, truth: in its pixels.
    """
    out = _pale(picture, 0.55, 90)
    found, wanted = (np.zeros(picture.shape[:2], dtype=np.uint8) for _ in range(2))
    for canvas, patch in ((found, mask), (wanted, truth)):
        patch.of(canvas)[:] = patch.mask
    parts = {
        "right": (found & wanted, 0.35),
        "false_positive": (found & ~wanted, 0.7),
        "false_negative": (wanted & ~found, 0.7),
    }
    for kind, (part, alpha) in parts.items():
        tint(out, Patch(0, 0, part), rgb(MASK_COLORS[kind]), alpha)
    outline(out, contours(truth), _WHITE, 1)
    return out


def compared_keypoints(
    picture: np.ndarray,
    keypoints: np.ndarray,
    truth: np.ndarray,
    edges: Iterable[tuple[int, int]],
    *,
    seen: np.ndarray,
) -> np.ndarray:
    """A pale copy of a picture with a skeleton, and a line from each of its points to the true one.

    Args:
        picture: uint8 (H, W, 3), RGB.
        keypoints, truth: (K, 2) continuous x, y in its pixels; the same array draws the truth alone.
        edges: limbs, as indices of two keypoints.
        seen: (K,) bool, keypoints that are drawn.
    """
    out = _pale(picture, 0.5, 60)
    is_truth = keypoints is truth
    far = 4 * max(picture.shape)  # cv2's lines to points beyond are wrong
    keypoints, truth = keypoints.clip(-far, far), truth.clip(-far, far)
    color = rgb(KEYPOINT_COLORS["truth" if is_truth else "predicted"])
    for a, b in edges:
        if seen[a] and seen[b]:
            draw_limb(out, keypoints[a], keypoints[b], 2, color)
    for point in keypoints[seen]:
        draw_point(out, point, 3, color)
    if not is_truth:
        for point, place in zip(keypoints[seen], truth[seen]):
            draw_limb(out, point, place, 2, rgb(KEYPOINT_COLORS["error"]))
            draw_point(out, place, 2, rgb(KEYPOINT_COLORS["truth"]))
    return out


def _pale(picture: np.ndarray, contrast: float, light: float) -> np.ndarray:
    """A grey picture, on which colours stand out."""
    grey = contrast * picture.mean(axis=2, keepdims=True) + light
    return grey.repeat(3, axis=2).clip(0, 255).astype(np.uint8)
