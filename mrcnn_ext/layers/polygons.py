# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Polygons as flat tensors: the form in which the mask ops take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["PackedPolygons"]


@dataclass(frozen=True)
class PackedPolygons:
    """The polygons of N instances in three flat CPU tensors; treat them as read-only.

    Attributes:
        points: (P, 2) float64, (x, y) in pixels of the image, finite.
        part_begin: (K + 1,) int64; polygon k is ``points[part_begin[k]:part_begin[k + 1]]``.
        instance_begin: (N + 1,) int64; instance n has the polygons ``instance_begin[n]`` to
            ``instance_begin[n + 1] - 1``, or none.
    """

    points: Tensor
    part_begin: Tensor
    instance_begin: Tensor

    def __len__(self) -> int:
        return self.instance_begin.shape[0] - 1

    @classmethod
    def from_lists(cls, polygons: Sequence[Sequence[np.ndarray]]) -> PackedPolygons:
        """Pack Detectron2's format: for each instance its polygons, each [x0, y0, x1, y1, ...].

        Raises:
            ValueError: a polygon has fewer than three points, an odd number of coordinates or one
                that is not finite; names the instance and the polygon.
        """
        flat = [
            np.asarray(part, dtype=np.float64).reshape(-1) for item in polygons for part in item
        ]
        sizes = np.array([len(part) for part in flat], dtype=np.int64)
        values = np.concatenate(flat) if flat else np.zeros(0)
        if (sizes < 6).any() or (sizes % 2).any() or not np.isfinite(values).all():
            _raise_for_bad_polygon(polygons)
        return cls(
            torch.from_numpy(values.reshape(-1, 2)),
            _offsets(sizes // 2),
            _offsets(np.array([len(item) for item in polygons], dtype=np.int64)),
        )

    @classmethod
    def cat(cls, items: Sequence[PackedPolygons]) -> PackedPolygons:
        """Concatenate the instances of ``items``; a single item is returned as it is."""
        if len(items) == 1:
            return items[0]
        return cls(
            torch.cat([item.points for item in items]),
            _cat_offsets([item.part_begin for item in items]),
            _cat_offsets([item.instance_begin for item in items]),
        )

    def to_lists(self) -> list[list[np.ndarray]]:
        """Unpack to Detectron2's format; the arrays are views of ``points``."""
        values, parts = self.points.numpy().reshape(-1), (2 * self.part_begin).tolist()
        arrays = [values[begin:end] for begin, end in zip(parts, parts[1:])]
        begins = self.instance_begin.tolist()
        return [arrays[begin:end] for begin, end in zip(begins, begins[1:])]


def _offsets(sizes: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]))


def _cat_offsets(offsets: list[Tensor]) -> Tensor:
    begin, pieces = 0, [offsets[0].new_zeros(1)]
    for item in offsets:
        pieces.append(item[1:] + begin)
        begin += int(item[-1])
    return torch.cat(pieces)


def _raise_for_bad_polygon(polygons: Sequence[Sequence[np.ndarray]]) -> None:
    for instance, parts in enumerate(polygons):
        for number, part in enumerate(parts):
            values = np.asarray(part, dtype=np.float64).reshape(-1)
            where = f"Polygon {number} of instance {instance}"
            if len(values) < 6 or len(values) % 2:
                raise ValueError(
                    f"{where} has {len(values)} coordinates; expected an even number, 6 or more."
                )
            if not np.isfinite(values).all():
                wrong = values[~np.isfinite(values)][0]
                raise ValueError(f"{where} has the coordinate {wrong}; expected finite numbers.")
