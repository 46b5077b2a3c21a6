# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoints of several classes in one model."""

from .names import COCO_PERSON_NAMES, COCO_PERSON_SIGMAS
from .skeleton import DEFAULT_SIGMA, Skeleton
from .skeleton_set import SkeletonSet

__all__ = [
    "COCO_PERSON_NAMES",
    "COCO_PERSON_SIGMAS",
    "DEFAULT_SIGMA",
    "Skeleton",
    "SkeletonSet",
]
