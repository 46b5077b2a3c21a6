# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The kinds of synthetic sets: which classes a picture shows, and how many and how large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...skeletons import Skeleton, SkeletonSet
from .crane import CRANE_EDGES, CRANE_FLIP_MAP, CRANE_KEYPOINT_NAMES, crane
from .figure import (
    SHAPES_KEYPOINT_FLIP_MAP,
    SHAPES_KEYPOINT_NAMES,
    SHAPES_SKELETON,
    figure,
)
from .outlines import SHAPES
from .raster import Outline

__all__ = ["KINDS", "POSE_KIND", "SHAPES_KIND", "SceneKind"]

_FIGURE = Skeleton("figure", SHAPES_KEYPOINT_NAMES, SHAPES_KEYPOINT_FLIP_MAP, SHAPES_SKELETON)
_CRANE = Skeleton("crane", CRANE_KEYPOINT_NAMES, CRANE_FLIP_MAP, CRANE_EDGES)


@dataclass(frozen=True)
class SceneKind:
    """What the pictures of a set show.

    Attributes:
        name: of the kind, part of the set's folder.
        classes: name -> function that draws a random outline.
        skeletons: of the classes.
        smallest: pixels of the longer side of an object.
        number: of objects in a picture: the least, and one more than the most.
        flat_keypoints: annotations of every class have the keypoints of all, as Detectron2 asks of a
            json that it reads itself.
    """

    name: str
    classes: dict[str, Callable[[np.random.Generator], Outline]] = field(repr=False)
    skeletons: SkeletonSet = field(repr=False)
    smallest: float
    number: tuple[int, int]
    flat_keypoints: bool

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.classes)


SHAPES_KIND = SceneKind(
    name="shapes",
    classes=SHAPES,
    skeletons=SkeletonSet(
        (_FIGURE,), tuple(0 if name == "figure" else None for name in SHAPES), tuple(SHAPES)
    ),
    smallest=6.0,
    number=(3, 15),
    flat_keypoints=True,
)
_POSE_CLASSES = {"figure": figure, "crane": crane, "blob": SHAPES["blob"]}
POSE_KIND = SceneKind(
    name="pose",
    classes=_POSE_CLASSES,
    skeletons=SkeletonSet((_FIGURE, _CRANE), (0, 1, None), tuple(_POSE_CLASSES)),
    smallest=32.0,
    number=(3, 9),
    flat_keypoints=False,
)
KINDS = {kind.name: kind for kind in (SHAPES_KIND, POSE_KIND)}
