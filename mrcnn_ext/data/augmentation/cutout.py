# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Rectangular holes in the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

from .arguments import check_pixel, interval, number, pixel_value

__all__ = ["Cutout", "CutoutTransform"]


class Cutout(T.Augmentation):
    """Fill random rectangles with one colour, as if something stood before the objects.

    With ``cut_masks``, masks under a hole are cut, boxes become those of what is left, and an object
    that is covered goes; this needs masks as pixels (INPUT.MASK_FORMAT "bitmask"). An object without a
    mask keeps its box. Without ``cut_masks``, masks and boxes stay, and the model learns to guess what
    is covered. Visible keypoints under a hole become hidden ones (v = 1) either way.
    """

    def __init__(
        self,
        *,
        holes: Sequence[int] = (1, 3),
        size: Sequence[float] = (0.05, 0.2),
        fill: float | Sequence[float] = 128.0,
        cut_masks: bool = True,
        probability: float = 0.5,
    ) -> None:
        """
        Args:
            holes: least and greatest number.
            size: least and greatest height and width, as shares of the picture's.
            fill: value of the pixels in a hole, or one for each band; with MRCNN_EXT.DATA.BANDS and
                more than 8 bits, MODEL.PIXEL_MEAN is the default.
            cut_masks: see above.
            probability: of holes at all.

        Raises:
            ValueError: an argument has a value that cannot work.
        """
        super().__init__()
        self.holes = interval("holes", holes, 1, 1000, integral=True)
        self.size = interval("size", size, 0.001, 1)
        self.fill = pixel_value("fill", fill)
        if not isinstance(cut_masks, bool):
            raise ValueError(f"cut_masks is {cut_masks!r}; expected true or false")
        self.cut_masks = self.needs_bitmasks = cut_masks
        self.probability = number("probability", probability, 0, 1)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        check_pixel("fill", self.fill, image)
        if self._rand_range() >= self.probability:
            return T.NoOpTransform()
        size = np.array(image.shape[:2])
        hidden = np.zeros(size, dtype=bool)
        for _ in range(np.random.randint(int(self.holes[0]), int(self.holes[1]) + 1)):
            sides = np.maximum(1, np.round(np.random.uniform(*self.size, size=2) * size))
            top, left = np.floor(np.random.uniform(0, 1, size=2) * (size - sides + 1)).astype(int)
            height, width = sides.astype(int)
            hidden[top : top + height, left : left + width] = True
        return CutoutTransform(hidden, self.fill, self.cut_masks)


class CutoutTransform(T.Transform):
    """Fill what is hidden.

    Attributes:
        hidden: bool (H, W); visible keypoints there become hidden.
        cuts_objects: masks are cut.
    """

    def __init__(
        self, hidden: np.ndarray, fill: float | tuple[float, ...], cut_masks: bool
    ) -> None:
        super().__init__()
        self.hidden, self.fill = hidden, fill
        self.cuts_objects = self.needs_bitmasks = cut_masks

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        img = img.copy()
        img[self.hidden] = self.fill
        return img

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return np.where(self.hidden, 0, segmentation) if self.cuts_objects else segmentation

    def inverse(self) -> T.Transform:
        raise NotImplementedError
