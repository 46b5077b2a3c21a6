# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A random part of the picture, with its objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

from .arguments import choice, interval, number

__all__ = ["Crop"]

_TRIES = 20


class Crop(T.Augmentation):
    """Crop a part whose height and width are random shares of the picture's.

    ``keep`` says which parts are good. "one": at least one object keeps ``min_share`` of its box. Of 20
    random places the first good one is taken; where there is none, the part around the middle of a
    random object. "all": the part is enlarged until no box is cut. "none": any part.
    """

    def __init__(
        self,
        *,
        share: Sequence[float] = (0.5, 1.0),
        keep: str = "one",
        min_share: float = 0.5,
        probability: float = 1.0,
    ) -> None:
        """
        Args:
            share: least and greatest share of height and width, drawn for each of them.
            keep: "one", "all" or "none".
            min_share: of the area of a box; for "one".
            probability: of cropping at all.

        Raises:
            ValueError: an argument has a value that cannot work.
        """
        super().__init__()
        self.share = interval("share", share, 0.01, 1)
        self.keep = choice("keep", keep, ("one", "all", "none"))
        self.min_share = number("min_share", min_share, 0, 1)
        self.probability = number("probability", probability, 0, 1)

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> T.Transform:
        if self._rand_range() >= self.probability:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        shares = np.random.uniform(*self.share, size=2)
        h, w = np.maximum(1, np.round(shares * (height, width))).astype(int)
        x, y = self._place(height, width, h, w, boxes)
        if self.keep == "all" and len(boxes):
            x1, y1 = max(x + w, boxes[:, 2].max()), max(y + h, boxes[:, 3].max())
            x, y = min(x, boxes[:, 0].min()), min(y, boxes[:, 1].min())
            x, y = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
            w, h = min(width, int(np.ceil(x1))) - x, min(height, int(np.ceil(y1))) - y
        return T.CropTransform(int(x), int(y), int(w), int(h), width, height)

    def _place(self, height: int, width: int, h: int, w: int, boxes: np.ndarray) -> tuple[int, int]:
        tries = _TRIES if self.keep == "one" and len(boxes) else 1
        for _ in range(tries):
            x, y = np.random.randint(width - w + 1), np.random.randint(height - h + 1)
            if tries == 1 or self._is_good((x, y, x + w, y + h), boxes):
                return x, y
        box = boxes[np.random.randint(len(boxes))]
        x, y = (box[:2] + box[2:] - (w, h)) / 2
        return int(np.clip(x, 0, width - w)), int(np.clip(y, 0, height - h))

    def _is_good(self, part: tuple[int, int, int, int], boxes: np.ndarray) -> bool:
        sides = np.minimum(boxes[:, 2:], part[2:]) - np.maximum(boxes[:, :2], part[:2])
        inside = sides.clip(min=0).prod(axis=1)
        whole = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        return bool(((inside > 0) & (inside >= self.min_share * whole)).any())
