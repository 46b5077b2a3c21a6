# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What pictures are made of: views of an image, masks in them, tints, rims and outlines.

Each costs in proportion to the box of the object, whatever the size of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from ..coco.rle import mask_crop, to_rle
from ..errors import DataError

__all__ = ["Patch", "View", "contours", "dashes", "mask_patch", "outline", "rim", "tint"]

_OUTSIDE = (245, 245, 245)  # of a view that goes beyond its image
_STRIP = 1 << 18  # pixels that are blended at once


class Patch(NamedTuple):
    """The pixels of an object: (h, w) uint8 zeros and ones, and where they are in a picture."""

    left: int
    top: int
    mask: np.ndarray

    def of(self, picture: np.ndarray) -> np.ndarray:
        """The part of a picture under the patch; changing it changes the picture."""
        height, width = self.mask.shape
        return picture[self.top : self.top + height, self.left : self.left + width]


def mask_patch(segmentation, size: Sequence[int]) -> Patch:
    """The smallest patch of a mask.

    Args:
        segmentation: polygons, an RLE of either kind, or a dense mask (H, W); more than 0.5 is inside.
        size: (height, width) of its image.

    Raises:
        DataError: it has another size, or is damaged.
    """
    dense = None if isinstance(segmentation, (list, tuple, dict)) else np.asarray(segmentation)
    found = segmentation["size"] if isinstance(segmentation, dict) else size
    found = tuple(found if dense is None else dense.shape)
    if found != tuple(size):
        raise DataError(f"a mask has (height, width) {found}, its image {tuple(size)}.")
    if dense is None:
        try:
            left, top, columns = mask_crop(to_rle(segmentation, *size))
        except ValueError as error:
            raise DataError(f"the polygons or the RLE of a mask are damaged: {error}.") from error
        return Patch(left, top, np.ascontiguousarray(columns.T))
    dense = (dense if dense.dtype == bool else dense > 0.5).view(np.uint8)
    left, top, width, height = cv2.boundingRect(dense)
    return Patch(left, top, dense[top : top + height, left : left + width])


@dataclass(frozen=True)
class View:
    """The part of an image that a picture shows, enlarged or reduced.

    Attributes:
        size: (height, width) of the image.
        shape: (height, width) of the picture.
        corner: x, y of the image at the picture's upper left corner (continuous).
        scale: pixels of the picture by pixels of the image, along x and y.
        is_whole: it shows all of the image.
    """

    size: tuple[int, int]
    shape: tuple[int, int]
    corner: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    is_whole: bool = False

    @classmethod
    def whole(cls, size: Sequence[int], scale: float) -> View:
        """All of an image of (height, width) ``size``."""
        height, width = (max(1, round(side * scale)) for side in size[:2])
        scales = width / size[1], height / size[0]
        return cls((size[0], size[1]), (height, width), scale=scales, is_whole=True)

    @classmethod
    def around(
        cls, box: Sequence[float], size: Sequence[int], *, side: int, margin: float = 1.35
    ) -> View:
        """A square picture of ``side`` pixels around a box x0, y0, x1, y1; ``margin``: by its sides."""
        x0, y0, x1, y1 = box
        part = max(x1 - x0, y1 - y0, 8.0) * margin
        corner = (x0 + x1 - part) / 2, (y0 + y1 - part) / 2
        return cls((size[0], size[1]), (side, side), corner, (side / part, side / part))

    def image(self, image: np.ndarray) -> np.ndarray:
        """The picture, a copy: uint8 (*shape, 3)."""
        height, width = self.shape
        if self.is_whole and self.shape == self.size:
            return np.array(image)
        if self.is_whole:
            kind = cv2.INTER_CUBIC if height >= self.size[0] else cv2.INTER_AREA
            return cv2.resize(image, (width, height), interpolation=kind)
        flags, matrix = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, self._to_image(0, 0)
        return cv2.warpAffine(image, matrix, (width, height), flags=flags, borderValue=_OUTSIDE)

    def mask(self, segmentation) -> Patch:
        """The pixels of the picture in a mask of the image, see :func:`mask_patch`."""
        patch = mask_patch(segmentation, self.size)
        if not patch.mask.size or (self.is_whole and self.shape == self.size):
            return patch
        ends = (patch.left - 1, patch.top - 1), np.add(patch[:2], patch.mask.shape[::-1]) + 1
        limits = self.shape[::-1]
        x0, y0 = np.floor(self.points(ends[0])).astype(int).clip(0, limits).tolist()
        x1, y1 = np.ceil(self.points(ends[1])).astype(int).clip(0, limits).tolist()
        if x0 == x1 or y0 == y1:  # outside of the view
            return Patch(0, 0, patch.mask[:0, :0])
        matrix = self._to_image(x0, y0) - [[0, 0, patch.left], [0, 0, patch.top]]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        source = patch.mask.astype(np.float32)
        inside = cv2.warpAffine(source, matrix, (x1 - x0, y1 - y0), flags=flags)
        return Patch(x0, y0, (inside >= 0.5).astype(np.uint8))

    def points(self, points) -> np.ndarray:
        """(..., 2) continuous x, y of the image as those of the picture."""
        return (np.asarray(points, dtype=float) - self.corner) * self.scale

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) x0, y0, x1, y1 of the image as those of the picture."""
        return self.points(np.reshape(boxes, (-1, 2, 2))).reshape(-1, 4)

    def _to_image(self, left: int, top: int) -> np.ndarray:
        """From centres of pixels, counted from (left, top), to centres of the image's."""
        (sx, sy), (x, y) = self.scale, self.corner
        return np.array(
            [[1 / sx, 0, x + (left + 0.5) / sx - 0.5], [0, 1 / sy, y + (top + 0.5) / sy - 0.5]]
        )


def tint(
    picture: np.ndarray, patch: Patch, color: Sequence[float] | np.ndarray, alpha: float
) -> None:
    """Colour the pixels of a mask and no others; ``color``: RGB from 0 to 255."""
    # Blended by a table of all 256 values, in strips: both time and memory stay small.
    mixed = (1 - alpha) * np.arange(256)[:, None] + alpha * np.asarray(color, dtype=float)
    table, part = mixed.astype(np.uint8)[:, None], patch.of(picture)
    mask = patch.mask.view(np.uint8)
    rows = max(1, _STRIP // max(1, part.shape[1]))
    for top in range(0, len(part), rows):
        strip = part[top : top + rows]
        cv2.copyTo(cv2.LUT(strip, table), mask[top : top + rows], strip)


def rim(patch: Patch, shape: Sequence[int], width: int) -> Patch:
    """The outermost ``width`` pixels of a mask, which do not run along a picture of ``shape``."""
    height, breadth = patch.mask.shape
    above, left = min(patch.top, width), min(patch.left, width)
    below = min(shape[0] - patch.top - height, width)
    right = min(shape[1] - patch.left - breadth, width)
    framed = cv2.copyMakeBorder(patch.mask, above, below, left, right, cv2.BORDER_CONSTANT, value=0)
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inner = cv2.erode(framed, kernel)[above : above + height, left : left + breadth]
    return patch._replace(mask=patch.mask - inner)


def contours(patch: Patch) -> list[np.ndarray]:
    """Closed lines around a mask and its holes: (n, 1, 2) int32 each, x, y of the picture."""
    if not patch.mask.size:
        return []
    offset = patch.left, patch.top
    return list(
        cv2.findContours(patch.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=offset)[0]
    )


def outline(picture: np.ndarray, lines: Sequence[np.ndarray], color, thickness: int) -> None:
    """Draw closed lines, as of :func:`contours`."""
    cv2.polylines(picture, lines, True, color, thickness, cv2.LINE_AA)


def dashes(picture: np.ndarray, lines: Sequence[np.ndarray], color, thickness: int) -> None:
    """Draw closed lines in dashes of equal length."""
    for line in lines:
        ring = np.concatenate([line[:, 0], line[:1, 0]]).astype(float)
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(ring, axis=0).T))])
        dash = 4.0 * max(2, thickness if thickness % 2 == 0 else thickness - 1)
        count = max(2, round(along[-1] / (2 * dash)))
        for start in np.arange(count) * along[-1] / count:
            stops = np.linspace(start, start + 0.55 * along[-1] / count, 6)
            points = np.stack([np.interp(stops, along, ring[:, axis]) for axis in (0, 1)], axis=1)
            shifted = np.round(points * 16).astype(np.int32)[:, None]
            cv2.polylines(picture, [shifted], False, color, thickness, cv2.LINE_AA, shift=4)
