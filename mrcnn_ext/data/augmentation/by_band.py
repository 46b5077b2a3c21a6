# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's transforms on images of any number of bands and of any type."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform, TransformList
from PIL import Image

__all__ = ["BandInput", "apply_to_image"]

# Pillow or OpenCV take bands for colours with alpha in these, or refuse them.
_ONE_BY_ONE = (T.ResizeTransform, T.RotationTransform, T.ExtentTransform)


class BandInput(T.AugInput):
    """Detectron2's AugInput for an image (H, W, C) of uint8 or float32, whatever its bands are.

    Each band is resized as if it were a grey picture. So is float32, antialiased where it shrinks, as
    pictures of 8 bits are; Detectron2 by itself would leave pixels out. With uint8 and three bands,
    or one, everything is as in AugInput.
    """

    image: np.ndarray
    boxes: np.ndarray | None
    sem_seg: np.ndarray | None

    def transform(self, tfm: Transform) -> None:
        self.image = apply_to_image(tfm, self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)


def apply_to_image(tfm: Transform, image: np.ndarray) -> np.ndarray:
    """The transformed image; see :class:`BandInput`."""
    if isinstance(tfm, TransformList):
        for each in tfm.transforms:
            image = apply_to_image(each, image)
        return image
    # OpenCV drops a single channel.
    as_it_is = (1, 3) if isinstance(tfm, T.ResizeTransform) else (3,)
    is_picture = image.dtype == np.uint8 and image.shape[2] in as_it_is
    if isinstance(tfm, _ONE_BY_ONE) and not is_picture:
        return _stacked([_band(tfm, image[..., i]) for i in range(image.shape[2])])
    if isinstance(tfm, T.PadTransform) and np.ndim(tfm.pad_value):
        margins = ((tfm.y0, tfm.y1), (tfm.x0, tfm.x1))
        values = zip(np.moveaxis(image, 2, 0), tfm.pad_value)
        return _stacked([np.pad(band, margins, constant_values=value) for band, value in values])
    return tfm.apply_image(image)


def _band(tfm: Transform, band: np.ndarray) -> np.ndarray:
    band = np.ascontiguousarray(band)
    if isinstance(tfm, T.ResizeTransform) and band.dtype != np.uint8:
        size = (tfm.new_w, tfm.new_h)
        return np.asarray(Image.fromarray(band.astype(np.float32)).resize(size, tfm.interp))
    return tfm.apply_image(band)


def _stacked(bands: list[np.ndarray]) -> np.ndarray:
    return np.stack(bands, axis=-1)
