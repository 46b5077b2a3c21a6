# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mirrored pictures. Left and right keypoints change places in both directions."""

from __future__ import annotations

from detectron2.data import transforms as T

from .arguments import number

__all__ = ["horizontal_flip", "vertical_flip"]


def horizontal_flip(*, probability: float = 0.5) -> T.Augmentation:
    """Detectron2's ``RandomFlip`` from left to right.

    Raises:
        ValueError: ``probability`` is none.
    """
    return T.RandomFlip(number("probability", probability, 0, 1))


def vertical_flip(*, probability: float = 0.5) -> T.Augmentation:
    """Detectron2's ``RandomFlip`` upside down.

    A picture that is mirrored in whatever direction shows a left hand as a right hand. Detectron2's
    mapper exchanges keypoints for horizontal flips only; ours does it here, too.

    Raises:
        ValueError: ``probability`` is none.
    """
    probability = number("probability", probability, 0, 1)
    return T.RandomFlip(probability, horizontal=False, vertical=True)
