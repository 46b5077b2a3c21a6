# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""BitMasks with shared storage: indexing copies no masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks
from torch import Tensor

from ..layers import bitmask_targets
from .selection import select

__all__ = ["IndexedBitMasks"]


class IndexedBitMasks(BitMasks):
    """Detectron2's BitMasks: same constructor, methods and results, without copies of full masks.

    Detectron2 samples hundreds of proposals an image and copies the full mask of the matched instance
    for each of them. This class holds the masks it was made from and the (N,) indices of its own among
    them, so indexing copies indices only. ``tensor`` is gathered on first access; treat it as
    read-only.
    """

    _store: Tensor
    _rows: Tensor | None  # None: all of the store

    def __init__(self, tensor: Tensor | np.ndarray) -> None:
        """
        Args:
            tensor: (N, H, W), taken as bool.
        """
        super().__init__(tensor)  # assigns `tensor` and `image_size`

    @classmethod
    def _make(cls, store: Tensor, rows: Tensor | None) -> IndexedBitMasks:
        masks = cls(store)
        masks._rows = rows
        return masks

    @classmethod
    def from_bit_masks(cls, masks: BitMasks) -> IndexedBitMasks:
        """The same masks, not copied; an object of this class is returned as it is."""
        return masks if isinstance(masks, cls) else cls(masks.tensor)

    @property
    def tensor(self) -> Tensor:
        if self._rows is not None:
            self._store, self._rows = self._store[self._rows], None
        return self._store

    @tensor.setter
    def tensor(self, tensor: Tensor) -> None:
        self._store, self._rows = tensor, None

    def to(self, *args: Any, **kwargs: Any) -> IndexedBitMasks:
        store = self._store.to(*args, **kwargs)
        rows = self._rows if self._rows is None else self._rows.to(store.device)
        return self._make(store, rows)

    @property
    def device(self) -> torch.device:
        return self._store.device

    def __getitem__(self, item: Any) -> IndexedBitMasks:
        """As for BitMasks; see :func:`mrcnn_ext.structures.selection.select`."""
        rows = self._rows
        if rows is None:
            rows = torch.arange(self._store.shape[0], device=self._store.device)
        return self._make(self._store, select(rows, item).to(self._store.device))

    def __len__(self) -> int:
        return (self._store if self._rows is None else self._rows).shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def crop_and_resize(self, boxes: Tensor, mask_size: int | tuple[int, int]) -> Tensor:
        """Crop each mask by its box and resize it; the bits are Detectron2's.

        Args:
            boxes: (N, 4) in pixels of the image.
            mask_size: side of the result, or (h, w).

        Returns:
            (N, h, w) bool, on the device of the masks.
        """
        assert len(boxes) == len(self), f"{len(boxes)} != {len(self)}"
        return bitmask_targets(self._store, boxes, mask_size, self._rows)

    def area(self) -> Tensor:
        """(N,) int64 pixels in each mask, counted once for each mask of the store."""
        areas = self._store.flatten(1).sum(1)
        return areas if self._rows is None else areas[self._rows]

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> IndexedBitMasks:
        """All masks in their order."""
        assert isinstance(bitmasks_list, (list, tuple))
        assert len(bitmasks_list) > 0
        return IndexedBitMasks(torch.cat([item.tensor for item in bitmasks_list]))
