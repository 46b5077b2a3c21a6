# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Simple Copy-Paste (Ghiasi et al. 2021): objects of one picture in another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from detectron2.data import transforms as T

from .arguments import interval, number, picture_size, pixel_value, whole
from .sample import Sample, SampleAugmentation, hide_keypoints, mask_box

__all__ = ["CopyPaste", "paste"]


class CopyPaste(SampleAugmentation):
    """Paste a random subset of another picture's objects at the places that they have there.

    Both pictures go through the augmentations before this one, and through a jitter of scale and a flip
    here, with random numbers of their own; then they are on canvases of one size. Masks must be pixels
    (INPUT.MASK_FORMAT "bitmask"); polygons are drawn. What lies under a pasted mask is cut from the
    other masks, boxes become those of what is left.

    - A touched object stays if no side of its box moved by more than ``max_box_change``, or more than
      ``min_area_left`` pixels of it are left. One with nothing left goes.
    - Visible keypoints under a pasted mask become hidden ones (v = 1); those outside the canvas are
      unlabelled (v = 0).
    - Objects without a mask, and crowds, are never pasted. In the picture that is pasted into, an
      object without a mask keeps its box; it goes if anything of the box is covered, and at most
      ``min_area_left`` pixels of it are left.
    """

    def __init__(
        self,
        *,
        max_instances: int = 100,
        min_area_left: float = 300,
        max_box_change: float = 10,
        scale: Sequence[float] | None = (0.8, 1.25),
        flip: float = 0.5,
        size: int | Sequence[int] | None = None,
        probability: float = 1.0,
        pad_value: float | Sequence[float] = 128.0,
    ) -> None:
        """
        Args:
            max_instances: most objects that are pasted.
            min_area_left: see above, in pixels; less for sets of small objects.
            max_box_change: see above, in pixels.
            scale: least and greatest factor of the jitter; None: leave that, and the flip, to the
                augmentations before this one, such as ScaleJitter.
            flip: probability that a picture is mirrored from left to right.
            size: of the canvas, a side in pixels or (height, width); None: that of the picture that is
                pasted into.
            probability: of pasting at all; the jitter is applied anyway.
            pad_value: of what the canvas has beyond a picture, or a value for each band; with
                MRCNN_EXT.DATA.BANDS and more than 8 bits, MODEL.PIXEL_MEAN is the default.

        Raises:
            ValueError: an argument has a value that cannot work.
        """
        self.max_instances = whole("max_instances", max_instances, 1)
        self.min_area_left = number("min_area_left", min_area_left, 0)
        self.max_box_change = number("max_box_change", max_box_change, 0)
        self.scale = None if scale is None else interval("scale", scale, 0.01, 100)
        self.flip = number("flip", flip, 0, 1)
        self.size = None if size is None else picture_size("size", size)
        self.probability = number("probability", probability, 0, 1)
        self.pad_value = pixel_value("pad_value", pad_value)

    def __repr__(self) -> str:
        return f"CopyPaste({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    def apply(self, sample: Sample, draw_other: Callable[[], Sample]) -> None:
        canvas = self.size or sample.size
        self._jitter(sample, canvas)
        if np.random.uniform() >= self.probability:
            return
        other = draw_other()
        self._jitter(other, canvas)
        other.rasterise()
        candidates = [o for o in other.objects if _has_pixels(o)]
        # Any number, none and all included.
        number_pasted = np.random.randint(min(len(candidates), self.max_instances) + 1)
        chosen = np.random.permutation(len(candidates))[:number_pasted]
        paste(
            sample,
            other.image,
            [candidates[i] for i in sorted(chosen)],
            min_area_left=self.min_area_left,
            max_box_change=self.max_box_change,
        )

    def _jitter(self, sample: Sample, canvas: tuple[int, int]) -> None:
        if self.scale is not None:
            sample.augment(T.ResizeScale(*self.scale, *canvas))
        if sample.size != canvas:
            sample.augment(T.FixedSizeCrop(canvas, pad_value=self.pad_value))
        if self.scale is not None and self.flip:
            sample.augment(T.RandomFlip(self.flip))


def paste(
    sample: Sample,
    image: np.ndarray,
    objects: Sequence[dict],
    *,
    min_area_left: float,
    max_box_change: float,
) -> None:
    """Paste objects into a sample, in place, by the rules of :class:`CopyPaste`.

    Args:
        image: that the objects are on, as large as the sample's.
        objects: with masks as pixels, uint8 (H, W).
        min_area_left: in pixels.
        max_box_change: in pixels.
    """
    sample.rasterise()
    sample.boxes_change = True
    if not objects:
        sample.tighten()
        return
    covered = np.zeros(sample.size, dtype=bool)
    for each in objects:
        covered |= each["segmentation"].astype(bool)
    pixels = covered[..., None] if sample.image.ndim == 3 else covered
    sample.image = np.where(pixels, image, sample.image)
    kept = []
    for each in sample.objects:
        if "keypoints" in each:
            hide_keypoints(each["keypoints"], covered)
        if each.get("segmentation") is None:
            stays = _box_stays(each["bbox"], covered, min_area_left)
        else:
            stays = _cut(each, covered, min_area_left, max_box_change)
        if stays:
            kept.append(each)
    for each in objects:
        each["bbox"] = mask_box(each["segmentation"])
    sample.objects = [*kept, *objects]


def _has_pixels(each: dict) -> bool:
    masks = each.get("segmentation")
    return masks is not None and bool(masks.any())


def _cut(each: dict, covered: np.ndarray, min_area_left: float, max_box_change: float) -> bool:
    """Cut an object's mask and set its box; whether the object stays."""
    before = mask_box(each["segmentation"])
    each["segmentation"] = np.where(covered, 0, each["segmentation"]).astype(np.uint8)
    each["bbox"] = mask_box(each["segmentation"])
    left = np.count_nonzero(each["segmentation"])
    if not left:
        return False
    moved = abs(each["bbox"] - before).max()
    return bool(left > min_area_left or moved <= max_box_change)


def _box_stays(box: np.ndarray, covered: np.ndarray, min_area_left: float) -> bool:
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    part = covered[top:bottom, left:right]
    hidden = int(np.count_nonzero(part))
    return not hidden or bool(part.size - hidden > min_area_left)
