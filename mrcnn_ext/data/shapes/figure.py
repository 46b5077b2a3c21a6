# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The articulated class: a figure with a head, arms and legs, and its own skeleton."""

from __future__ import annotations

import numpy as np

from .raster import Outline

__all__ = [
    "SHAPES_KEYPOINT_FLIP_MAP",
    "SHAPES_KEYPOINT_NAMES",
    "SHAPES_SKELETON",
    "direction",
    "figure",
    "limb",
]

# The figure faces the viewer: its left arm is on the right side of the picture.
SHAPES_KEYPOINT_NAMES: tuple[str, ...] = (
    "crown",
    "neck",
    "waist",
    "left_elbow",
    "right_elbow",
    "left_hand",
    "right_hand",
    "left_knee",
    "right_knee",
    "left_foot",
    "right_foot",
)
SHAPES_KEYPOINT_FLIP_MAP: tuple[tuple[str, str], ...] = (
    ("left_elbow", "right_elbow"),
    ("left_hand", "right_hand"),
    ("left_knee", "right_knee"),
    ("left_foot", "right_foot"),
)
SHAPES_SKELETON: tuple[tuple[str, str], ...] = (
    ("crown", "neck"),
    ("neck", "waist"),
    ("neck", "left_elbow"),
    ("left_elbow", "left_hand"),
    ("neck", "right_elbow"),
    ("right_elbow", "right_hand"),
    ("waist", "left_knee"),
    ("left_knee", "left_foot"),
    ("waist", "right_knee"),
    ("right_knee", "right_foot"),
)


def direction(degrees: float) -> np.ndarray:
    """Unit vector; 0 points down, positive angles to the right of the picture (y grows down)."""
    angle = np.deg2rad(degrees)
    return np.array([np.sin(angle), np.cos(angle)])


def limb(start: np.ndarray, end: np.ndarray, r0: float, r1: float) -> np.ndarray:
    """A limb with round ends and radii ``r0``, ``r1``: a tapered capsule."""
    axis = (end - start) / np.linalg.norm(end - start)
    normal = np.array([-axis[1], axis[0]])
    arc = np.linspace(-np.pi / 2, np.pi / 2, 12)[:, None]
    cap_end = end + r1 * (np.cos(arc) * axis + np.sin(arc) * normal)
    cap_start = start + r0 * (-np.cos(arc) * axis - np.sin(arc) * normal)
    return np.concatenate([cap_end, cap_start])


def figure(rng: np.random.Generator) -> Outline:
    """A figure in a random pose, and its keypoints in the order of SHAPES_KEYPOINT_NAMES.

    All keypoints lie inside the outline: on joints, in the hands and feet, and in the head.
    """
    thin = rng.uniform(0.05, 0.085)
    neck, waist = np.array([0.0, -0.3]), np.array([0.0, 0.3])
    head = neck + (0.0, -0.24)
    points = {"crown": head + (0.0, -0.1), "neck": neck, "waist": waist}
    limbs = [(neck, waist, 0.15, 0.11), (neck, head, 0.07, 0.07)]
    # Mirrored: side +1 is the right of the picture, which is the figure's left.
    for side, name in ((1, "left"), (-1, "right")):
        upper = rng.uniform(20, 150)
        shoulder = neck + (side * 0.08, 0.02)
        elbow = neck + (side * 0.1, 0.02) + 0.33 * direction(side * upper)
        hand = elbow + 0.32 * direction(side * (upper + rng.uniform(-60, 95)))
        thigh = rng.uniform(4, 55)
        knee = waist + (side * 0.07, 0.02) + 0.36 * direction(side * thigh)
        foot = knee + 0.38 * direction(side * (thigh + rng.uniform(-55, 25)))
        limbs += [(shoulder, elbow, thin * 1.2, thin), (elbow, hand, thin, thin * 0.9)]
        limbs += [(waist, knee, thin * 1.6, thin * 1.2), (knee, foot, thin * 1.2, thin)]
        points.update({f"{name}_elbow": elbow, f"{name}_hand": hand})
        points.update({f"{name}_knee": knee, f"{name}_foot": foot})
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    skull = head + np.stack([0.16 * np.cos(angles), 0.18 * np.sin(angles)], axis=1)
    parts = [(limb(*one),) for one in limbs] + [(skull,)]
    keypoints = np.stack([points[name] for name in SHAPES_KEYPOINT_NAMES])
    return Outline(tuple(parts), keypoints)
