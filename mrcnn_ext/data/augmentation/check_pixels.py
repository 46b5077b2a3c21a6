# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Whether augmentations can work on the bands that a model gets, found before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from detectron2.data import transforms as T

from ...errors import ConfigError

__all__ = ["Pixels", "check_pixels"]

# Those of Detectron2 that mix red, green and blue
_COLOURS_ONLY = (T.RandomSaturation, T.RandomLighting)


class Pixels(Protocol):
    """What :func:`check_pixels` asks of an ``ImageReader``."""

    @property
    def bands(self) -> tuple[int, ...]: ...

    @property
    def pixel_type(self) -> str: ...


def check_pixels(steps: Sequence, pixels: Pixels, where: str = "augmentations") -> None:
    """Ask each augmentation; one that cares has a method ``pixel_problem(bands, pixel_type)``.

    Args:
        steps: augmentations of Detectron2, of this package or of anyone.
        pixels: bands and type of what they get.
        where: what a message calls the place that they are named in.

    Raises:
        ConfigError: one cannot; names it, and says what to do.
    """
    number, kind = len(pixels.bands), pixels.pixel_type
    for step in steps:
        for part in _parts(step):
            problem = ""
            if hasattr(part, "pixel_problem"):
                problem = part.pixel_problem(number, kind)
            elif isinstance(part, _COLOURS_ONLY) and number != 3:
                problem = f"works on 3 bands only, but there are {number}; leave it out"
            if problem:
                raise ConfigError(f"{where}: {type(part).__name__} {problem}.")


def _parts(step) -> Iterator:
    """An augmentation, or those that it is made of."""
    inner = getattr(step, "augs", None)
    if inner is None and isinstance(step, T.RandomApply):
        inner = [step.aug]
    if inner is None or hasattr(step, "pixel_problem"):
        yield step
        return
    for each in inner:
        yield from _parts(each)
