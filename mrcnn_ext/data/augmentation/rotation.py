# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Turned pictures."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import transforms as T

from .arguments import interval, number

__all__ = ["rotation"]


def rotation(
    *,
    angle: Sequence[float] = (-10.0, 10.0),
    expand: bool = False,
    probability: float = 1.0,
) -> T.Augmentation:
    """Detectron2's ``RandomRotation`` around the middle of the picture. Corners become black.

    Boxes are those of the turned masks; an object without a mask gets the box around its turned box,
    which is too large.

    Args:
        angle: least and greatest, in degrees, counter-clockwise, -180 to 180.
        expand: enlarge the picture so that nothing is lost; otherwise it keeps its size.
        probability: of turning at all.

    Raises:
        ValueError: an argument has a value that cannot work.
    """
    angles = interval("angle", angle, -180, 180)
    if not isinstance(expand, bool):
        raise ValueError(f"expand is {expand!r}; expected true or false")
    turned = T.RandomRotation(list(angles), expand=expand)
    return T.RandomApply(turned, number("probability", probability, 0, 1))
