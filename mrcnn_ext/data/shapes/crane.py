# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A second articulated class: a crane with a base, two booms and a claw, and its own skeleton."""

from __future__ import annotations

import numpy as np

from .figure import direction, limb
from .raster import Outline

__all__ = ["CRANE_EDGES", "CRANE_FLIP_MAP", "CRANE_KEYPOINT_NAMES", "crane"]

CRANE_KEYPOINT_NAMES: tuple[str, ...] = (
    "base",
    "shoulder",
    "elbow",
    "wrist",
    "left_finger",
    "right_finger",
)
# Left and right of the claw as the picture shows them, so that they change places in a mirror.
CRANE_FLIP_MAP: tuple[tuple[str, str], ...] = (("left_finger", "right_finger"),)
CRANE_EDGES: tuple[tuple[str, str], ...] = (
    ("base", "shoulder"),
    ("shoulder", "elbow"),
    ("elbow", "wrist"),
    ("wrist", "left_finger"),
    ("wrist", "right_finger"),
)


def crane(rng: np.random.Generator) -> Outline:
    """A crane in a random pose, and its keypoints in the order of CRANE_KEYPOINT_NAMES.

    The claw hangs down, so that its left finger is on the left of the picture before the whole is
    turned. All keypoints lie inside the outline.
    """
    thin = rng.uniform(0.04, 0.07)
    base = np.array([0.0, 0.5])
    shoulder = base + rng.uniform(0.25, 0.45) * direction(180)
    lean = rng.uniform(100, 170) * rng.choice([-1, 1])
    elbow = shoulder + rng.uniform(0.4, 0.6) * direction(lean)
    # Onwards to the same side, level or falling
    wrist = elbow + rng.uniform(0.3, 0.5) * direction(np.sign(lean) * rng.uniform(20, 100))
    spread = rng.uniform(15, 55)
    left, right = (wrist + 0.2 * direction(side * spread) for side in (-1, 1))
    foot = np.array([[-0.25, 0.45], [0.25, 0.45], [0.25, 0.58], [-0.25, 0.58]])
    limbs = [
        limb(base, shoulder, thin * 2.2, thin * 1.8),
        limb(shoulder, elbow, thin * 1.6, thin * 1.3),
        limb(elbow, wrist, thin * 1.3, thin),
        limb(wrist, left, thin, thin * 0.6),
        limb(wrist, right, thin, thin * 0.6),
    ]
    keypoints = np.stack([base, shoulder, elbow, wrist, left, right])
    return Outline((*((ring,) for ring in limbs), (foot,)), keypoints)
