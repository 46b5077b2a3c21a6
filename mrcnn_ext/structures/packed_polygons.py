# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""PolygonMasks with shared storage in flat tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import PolygonMasks
from torch import Tensor

from ..layers import PackedPolygons, polygon_mask_targets
from .selection import select

__all__ = ["PackedPolygonMasks"]


class PackedPolygonMasks(PolygonMasks):
    """Detectron2's PolygonMasks: same constructor, methods and results, other storage.

    The polygons of all instances are three flat tensors, shared by all objects that indexing makes. An
    object holds these and the (N,) indices of its instances. So indexing, which Detectron2 does twice
    for every sampled proposal, copies indices instead of polygons, and ``crop_and_resize`` is one op
    for all boxes.

    ``polygons``, Detectron2's list of lists of arrays, is built on first access. Its arrays are views
    of the store: treat them as read-only. Assigning a list to it packs that list.
    """

    _store: PackedPolygons
    _rows: Tensor
    _lists: list[list[np.ndarray]] | None

    def __init__(self, polygons: list[list[Tensor | np.ndarray]]) -> None:
        """
        Args:
            polygons: for each instance the list of its polygons, each [x0, y0, x1, y1, ...].

        Raises:
            ValueError: not a list of lists, a polygon of fewer than three points or of an odd number
                of coordinates, or (other than in Detectron2) one with a coordinate that is not finite.
        """
        super().__init__(polygons)  # checks, converts, and assigns `polygons`

    @classmethod
    def from_packed(cls, store: PackedPolygons, rows: Tensor | None = None) -> PackedPolygonMasks:
        """Masks of instances of a store, without a copy.

        Args:
            store: polygons of any number of instances.
            rows: (N,) int64, the instances; repeats are allowed. None: all, in their order.
        """
        masks = cls.__new__(cls)
        masks._store = store
        masks._rows = torch.arange(len(store)) if rows is None else rows
        masks._lists = None
        return masks

    @classmethod
    def from_polygon_masks(cls, masks: PolygonMasks) -> PackedPolygonMasks:
        """Pack Detectron2's structure; one that is packed already is returned as it is.

        Raises:
            ValueError: a coordinate is not finite.
        """
        if isinstance(masks, cls):
            return masks
        return cls.from_packed(PackedPolygons.from_lists(masks.polygons))

    @property
    def polygons(self) -> list[list[np.ndarray]]:
        if self._lists is None:
            lists = self._store.to_lists()
            self._lists = [lists[row] for row in self._rows.tolist()]
        return self._lists

    @polygons.setter
    def polygons(self, polygons: list[list[np.ndarray]]) -> None:
        self._store = PackedPolygons.from_lists(polygons)
        self._rows = torch.arange(len(polygons))
        self._lists = None

    def nonempty(self) -> Tensor:
        """(N,) bool on the CPU: whether an instance has a polygon."""
        return (self._store.instance_begin.diff() > 0)[self._rows.cpu()]

    def __getitem__(self, item: Any) -> PackedPolygonMasks:
        """As for PolygonMasks, and with int32 or int64 tensors on any device; see :func:`select`."""
        return self.from_packed(self._store, select(self._rows, item))

    def __len__(self) -> int:
        return self._rows.shape[0]

    def crop_and_resize(self, boxes: Tensor, mask_size: int | tuple[int, int]) -> Tensor:
        """Rasterise each mask in its box; the bits are Detectron2's.

        Args:
            boxes: (N, 4) in pixels of the image. On a GPU this waits for them, once.
            mask_size: side of the result, or (h, w).

        Returns:
            (N, h, w) bool, on the device of ``boxes``.
        """
        assert len(boxes) == len(self), f"{len(boxes)} != {len(self)}"
        return polygon_mask_targets(self._store, boxes, mask_size, self._rows)

    @staticmethod
    def cat(polymasks_list: Sequence[PolygonMasks]) -> PackedPolygonMasks:
        """All masks in their order. What was indexed from one object still shares its polygons."""
        assert isinstance(polymasks_list, (list, tuple))
        assert len(polymasks_list) > 0
        items = [PackedPolygonMasks.from_polygon_masks(item) for item in polymasks_list]
        stores, begins, begin = [], {}, 0
        for item in items:
            if id(item._store) not in begins:
                stores.append(item._store)
                begins[id(item._store)] = begin
                begin += len(item._store)
        device = items[0]._rows.device
        rows = [item._rows.to(device) + begins[id(item._store)] for item in items]
        return PackedPolygonMasks.from_packed(PackedPolygons.cat(stores), torch.cat(rows))
