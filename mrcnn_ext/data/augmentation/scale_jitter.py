# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Large-scale jitter: any scale on a canvas of one size."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import transforms as T

from .arguments import check_pixel, interval, picture_size, pixel_value

__all__ = ["ScaleJitter"]


class ScaleJitter(T.AugmentationList):
    """Detectron2's ``ResizeScale`` and ``FixedSizeCrop``: "LSJ" of its new baselines.

    The picture is scaled so that it fits into ``size`` times a random factor. What is larger than the
    canvas is cropped at a random place, what is smaller is padded on the right and at the bottom.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.1, 2.0),
        pad_value: float | Sequence[float] = 128.0,
    ) -> None:
        """
        Args:
            size: of the canvas: a side in pixels, or (height, width).
            scale: least and greatest factor.
            pad_value: colour of the padding, or a value for each band; with MRCNN_EXT.DATA.BANDS and
                more than 8 bits, MODEL.PIXEL_MEAN is the default.

        Raises:
            ValueError: an argument has a value that cannot work.
        """
        self.size = picture_size("size", size)
        self.scale = interval("scale", scale, 0.01, 100)
        self.pad_value = pixel_value("pad_value", pad_value)
        super().__init__(
            [
                T.ResizeScale(*self.scale, *self.size),
                T.FixedSizeCrop(self.size, pad_value=self.pad_value),
            ]
        )

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        check_pixel("pad_value", self.pad_value, aug_input.image)
        return super().__call__(aug_input)

    def __repr__(self) -> str:
        return f"ScaleJitter(size={self.size}, scale={self.scale}, pad_value={self.pad_value})"

    __str__ = __repr__
