# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A head's keypoints of an object, with their errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...skeletons import SkeletonSet
from ...visualization.compared import compared_keypoints
from ...visualization.primitives import View
from .objects import PosedObject

__all__ = ["draw_keypoints", "edges_of"]


def edges_of(skeletons: SkeletonSet | None) -> list[tuple[int, int]]:
    """Limbs of all skeletons, as pairs of slots."""
    if skeletons is None:
        return []
    index = {name: slot for slot, name in enumerate(skeletons.keypoint_names)}
    return [(index[a], index[b]) for a, b in skeletons.edges]


def draw_keypoints(
    crop: np.ndarray,
    view: View,
    one: PosedObject,
    keypoints: Sequence | None,
    *,
    edges: Sequence[tuple[int, int]],
) -> np.ndarray:
    """Keypoints over a crop of their image; None draws the truth. See :data:`~..kind.Painter`."""
    truth = view.points(one.keypoints[:, :2])
    found = truth if keypoints is None else view.points(np.array(keypoints)[:, :2])
    return compared_keypoints(crop, found, truth, edges, seen=one.keypoints[:, 2] > 0)
