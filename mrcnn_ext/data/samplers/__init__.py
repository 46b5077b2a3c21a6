# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How often each image is drawn in training: more often those that hold rare classes."""

from .build import sampler_from_config
from .class_balanced import ClassBalancedSampling, ClassBalancedTrainingSampler
from .held_classes import HeldClasses
from .repeat_factor import RepeatFactorSampling, class_factors, image_factors

__all__ = [
    "ClassBalancedSampling",
    "ClassBalancedTrainingSampler",
    "HeldClasses",
    "RepeatFactorSampling",
    "class_factors",
    "image_factors",
    "sampler_from_config",
]
