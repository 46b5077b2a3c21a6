# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoints of several classes in one model."""

from .skeleton import DEFAULT_SIGMA, Skeleton, SkeletonSet

__all__ = ["DEFAULT_SIGMA", "Skeleton", "SkeletonSet"]
