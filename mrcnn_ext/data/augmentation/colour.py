# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T

from .arguments import choice, interval, number
from .photometric import byte_picture

__all__ = ["Colour"]

_GREY = np.array([0.299, 0.587, 0.114])  # weights of R, G, B


class Colour(T.Augmentation):
    """Change brightness, contrast, saturation and hue, in this order, each by a factor of its own.

    1 changes nothing. Saturation and hue need pictures of three channels, and hue 8 bits. Of other
    numbers of channels, contrast is around the mean of each.
    """

    def __init__(
        self,
        *,
        brightness: Sequence[float] = (0.6, 1.4),
        contrast: Sequence[float] = (0.6, 1.4),
        saturation: Sequence[float] = (0.6, 1.4),
        hue: Sequence[float] = (-10.0, 10.0),
        probability: float = 1.0,
        image_format: str = "BGR",
    ) -> None:
        """
        Args:
            brightness, contrast, saturation: least and greatest factor, 0 or more.
            hue: least and greatest angle in degrees, -180 to 180.
            probability: of changing anything at all.
            image_format: order of the channels, "BGR" or "RGB"; a yaml config sets it by itself.

        Raises:
            ValueError: an argument has a value that cannot work.
        """
        super().__init__()
        self.brightness = interval("brightness", brightness, 0, 100)
        self.contrast = interval("contrast", contrast, 0, 100)
        self.saturation = interval("saturation", saturation, 0, 100)
        self.hue = interval("hue", hue, -180, 180)
        self.probability = number("probability", probability, 0, 1)
        self.image_format = choice("image_format", image_format, ("BGR", "RGB"))

    def __call__(self, aug_input: T.AugInput) -> T.TransformList:
        done: list[T.Transform] = []
        if self._rand_range() >= self.probability:
            return T.TransformList(done)
        # One after the other: contrast is around the mean of the brighter picture.
        for change in (self._brightness, self._contrast, self._saturation, self._hue):
            transform = change(aug_input.image)
            if transform is not None:
                aug_input.transform(transform)
                done.append(transform)
        return T.TransformList(done)

    def _brightness(self, image: np.ndarray) -> T.Transform | None:
        return _blend(0, self.brightness)

    def _contrast(self, image: np.ndarray) -> T.Transform | None:
        several = image.ndim == 3 and image.shape[2] not in (1, 3)  # of unlike ranges, perhaps
        if not several:
            return _blend(image.mean(), self.contrast)
        return _blend(image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32), self.contrast)

    def pixel_problem(self, bands: int, pixel_type: str) -> str:
        """Why it cannot work on such pictures; "" if it can."""
        if bands != 3:
            for what, neutral in (("saturation", (1, 1)), ("hue", (0, 0))):
                if getattr(self, what) != neutral:
                    return (
                        f"changes the {what} of pictures with 3 bands, but there are {bands}; set "
                        f"{what} to {list(neutral)}"
                    )
        if pixel_type != "uint8" and self.hue != (0, 0):
            return (
                f"changes the hue of pictures with 8 bits, but these have {pixel_type}; set hue to "
                "[0, 0]"
            )
        return ""

    def _saturation(self, image: np.ndarray) -> T.Transform | None:
        if self.saturation == (1, 1):
            return None
        _check_channels(image, "saturation")
        weights = _GREY if self.image_format == "RGB" else _GREY[::-1]
        return _blend(image.dot(weights)[..., None], self.saturation)

    def _hue(self, image: np.ndarray) -> T.Transform | None:
        if self.hue == (0, 0):
            return None
        _check_channels(image, "hue")
        angle = np.random.uniform(*self.hue)
        return T.ColorTransform(lambda picture: _turned(picture, angle, self.image_format))


def _blend(ground, limits: tuple[float, float]) -> T.Transform | None:
    if limits == (1, 1):
        return None
    factor = np.random.uniform(*limits)
    return T.BlendTransform(ground, 1 - factor, factor)


def _turned(picture: np.ndarray, angle: float, image_format: str) -> np.ndarray:
    picture = byte_picture(picture, "hue")
    there, back = (
        (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB)
        if image_format == "RGB"
        else (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR)
    )
    hsv = cv2.cvtColor(picture, there)
    # OpenCV's hue is in units of two degrees.
    hsv[..., 0] = np.mod(np.round(hsv[..., 0].astype(float) + angle / 2), 180)
    return cv2.cvtColor(hsv, back)


def _check_channels(image: np.ndarray, what: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3:
        channels = image.shape[2] if image.ndim == 3 else 1
        neutral = "[1, 1]" if what == "saturation" else "[0, 0]"
        raise ValueError(
            f"Colour changes the {what} of pictures with 3 channels, but this one has {channels}; set "
            f"{what} to {neutral}"
        )
