# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Augmentations of training, in Detectron2's terms: see docs/augmentation.md."""

from .albumentations_transform import Albumentations
from .blur import Blur
from .build import AUGMENTATIONS, augmentations_from_config, build_augmentations
from .colour import Colour
from .copy_paste import CopyPaste
from .crop import Crop
from .cutout import Cutout
from .noise import Noise
from .sample import Sample, SampleAugmentation
from .scale_jitter import ScaleJitter

__all__ = [
    "AUGMENTATIONS",
    "Albumentations",
    "Blur",
    "Colour",
    "CopyPaste",
    "Crop",
    "Cutout",
    "Noise",
    "Sample",
    "SampleAugmentation",
    "ScaleJitter",
    "augmentations_from_config",
    "build_augmentations",
]
