# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The built-in synthetic data set: hard enough to tell heads apart, made in seconds, exact.

Eight classes that only their shape tells apart (with holes, thin parts, concave outlines), on and
among textures and clutter, from 6 pixels to half the image, heavily occluded; one of them,
``figure``, is articulated and has keypoints.
"""

from .dataset import (
    ShapesSpec,
    configure_builtin_shapes,
    generate_shapes,
    load_shapes,
    register_builtin_shapes,
    register_shapes,
)
from .figure import SHAPES_KEYPOINT_FLIP_MAP, SHAPES_KEYPOINT_NAMES, SHAPES_SKELETON
from .scene import SHAPES_CLASSES

__all__ = [
    "SHAPES_CLASSES",
    "SHAPES_KEYPOINT_FLIP_MAP",
    "SHAPES_KEYPOINT_NAMES",
    "SHAPES_SKELETON",
    "ShapesSpec",
    "configure_builtin_shapes",
    "generate_shapes",
    "load_shapes",
    "register_builtin_shapes",
    "register_shapes",
]
