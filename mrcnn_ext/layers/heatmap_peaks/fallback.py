# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find the highest pixels with torch ops: what runs without the compiled op, and on a GPU.

Only the pixels that can be the highest are computed, for all boxes at once:

1. Compute the pixels within one cell of the map's highest cell: separably, with small matrices.
2. Between cells, the resized map is a bicubic patch, which nowhere exceeds the greatest of its Bézier
   control values. Those around a cell are at most v + |dx| / 4 + |dy| / 4 + |dxy| / 16, where dx, dy
   and dxy are central differences. A pixel can only be higher than the best of step 1 if one of the
   four cells around it has such a bound above it.
3. Most maps have one mode, and no other cell reaches that. Groups of rows are tested first, with
   bounds from their extremes; then the cells of the remaining rows; then the pixels around the
   remaining cells.

Boxes with fewer pixels than the map has cells are resized instead: there is little to save. So are
those with very many pixels a cell, a tile at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["bicubic_peaks"]

_A = -0.75  # of torch's bicubic kernel
# Maps processed at once, which bounds memory, and on a CPU the groups of rows processed at once.
_CHUNK = 2048
_GPU_CHUNK = 16384
_GROUPS = 1024
# Small boxes are resized together if their sides fall into the same step, in pixels.
_SIZE_STEP = 24
# Pixels computed at once, which bounds memory where boxes are huge; and a tile's side.
_PIXELS = 2**25
_TILE = 2048


def bicubic_peaks(maps: Tensor, sizes: Tensor, pixel: Tensor, value: Tensor) -> None:
    """See ``_bicubic_peaks`` in :mod:`.ops`; any device."""
    regions, number, height, width = maps.shape
    small = (sizes[:, 0] < width) | (sizes[:, 1] < height)
    # A window of three cells, which the search computes at once, must fit a tile.
    small |= (3 * sizes[:, 0] > _TILE * width) | (3 * sizes[:, 1] > _TILE * height)
    for part in _of_similar_size(small.nonzero()[:, 0], sizes, number):
        pixel[part], value[part] = _resize_and_find(maps[part], sizes[part])
    large = (~small).nonzero()[:, 0]
    whole = slice(0, regions)  # a slice of the maps is no copy of them
    pixels = _window_pixels(sizes[large], height, width)
    for part in _pieces(whole if len(large) == regions else large, number, pixels, maps.device):
        found, best = _search(
            maps[part].flatten(0, 1), sizes[part].repeat_interleave(number, dim=0)
        )
        pixel[part], value[part] = found.view(-1, number, 2), best.view(-1, number)


def _window_pixels(sizes: Tensor, height: int, width: int) -> int:
    """Pixels of the largest window of three cells, of (R, 2) sizes."""
    if len(sizes) == 0:
        return 0
    x, y = sizes.amax(dim=0).tolist()
    return (3 * x // width + 2) * (3 * y // height + 2)


def _pieces(regions, number: int, pixels: int, device: torch.device) -> list:
    """Split regions (a slice from 0, or indices) into pieces small enough to process at once.

    Args:
        regions: see above.
        number: maps of a region.
        pixels: to be computed for each map.
        device: of the maps.
    """
    at_once = _CHUNK if device.type == "cpu" else _GPU_CHUNK
    step = max(min(at_once, _PIXELS // max(pixels, 1)) // number, 1)
    if isinstance(regions, slice):
        return [slice(i, min(i + step, regions.stop)) for i in range(0, regions.stop, step)]
    return list(regions.split(step)) if len(regions) else []


def _of_similar_size(regions: Tensor, sizes: Tensor, number: int) -> list[Tensor]:
    """Split region indices into pieces of about one width and height, which are padded to one size."""
    if len(regions) == 0:
        return []
    _, group = torch.unique(
        torch.div(sizes[regions], _SIZE_STEP, rounding_mode="floor"), dim=0, return_inverse=True
    )
    counts = group.bincount().tolist()
    groups = regions[group.argsort()].split(counts)
    pieces = []
    for part in groups:
        x, y = sizes[part].amax(dim=0).tolist()
        pieces += _pieces(part, number, min(x, _TILE) * min(y, _TILE), sizes.device)
    return pieces


def _search(maps: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (N, 2) and values (N,) of maps (N, H, W), by the steps in the module's docstring."""
    extremes = _RowGroups(maps)
    cell = extremes.highest_cell(maps)
    everything = torch.arange(len(maps), device=maps.device)
    pixel, value = _best_in_window(maps, everything, cell, sizes)
    index, others = _cells_that_may_exceed(maps, extremes, value, cell)
    if len(index) == 0:
        return pixel, value
    step = max(_PIXELS // _window_pixels(sizes, *maps.shape[1:]), 1)
    windows = [
        _best_in_window(maps, part, cells, sizes[part])
        for part, cells in zip(index.split(step), others.split(step))
    ]
    found, score = (torch.cat(results) for results in zip(*windows))
    better = score > value[index]
    index, found, score = index[better], found[better], score[better]
    best = value.scatter_reduce(0, index, score, "amax")
    winner = score == best[index]
    pixel[index[winner]] = found[winner]
    return pixel, best


def _resize_and_find(maps: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (R, K, 2) and values (R, K) of (R, K, H, W) maps and (R, 2) sizes, by resizing."""
    width, height = sizes.amax(dim=0).tolist()
    # Longer tiles where the other side is short
    step_y = max(_TILE, _TILE**2 // 4 // width)
    step_x = max(_TILE, _TILE**2 // 4 // height)
    pixel, value = None, None
    for y in range(0, height, step_y):
        weights_y = _matrix(sizes[:, 1], maps.shape[2], y, min(y + step_y, height))
        rows = weights_y[:, None] @ maps
        for x in range(0, width, step_x):
            weights_x = _matrix(sizes[:, 0], maps.shape[3], x, min(x + step_x, width))
            values = rows @ weights_x.transpose(1, 2)[:, None]
            found, best = _highest_of_tile(values, x, y, sizes)
            if pixel is None or value is None:
                pixel, value = found, best
                continue
            # Of equal pixels the first one, row by row; a NaN stays.
            first = (found[..., 1] < pixel[..., 1]) & (best == value)
            better = (best > value) | first | best.isnan()
            pixel = torch.where(better[..., None], found, pixel)
            value = torch.where(better, best, value)
    return pixel, value


def _highest_of_tile(values: Tensor, x: int, y: int, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (R, K, 2) and values (R, K) of a tile, (R, K, h, w), whose first pixel is (x, y)."""
    rows, columns = values.shape[2:]
    beyond_x = torch.arange(x, x + columns, device=values.device) >= sizes[:, :1]
    beyond_y = torch.arange(y, y + rows, device=values.device) >= sizes[:, 1:]
    values.masked_fill_((beyond_y[:, :, None] | beyond_x[:, None])[:, None], -math.inf)
    value, best = values.flatten(2).max(dim=2)
    line = torch.div(best, columns, rounding_mode="floor")
    return torch.stack([best - line * columns + x, line + y], dim=2), value


def _matrix(pixels: Tensor, cells: int, begin: int, end: int) -> Tensor:
    """(R, end - begin, cells) weights for resizing an axis of ``cells`` to (R,) ``pixels``."""
    scale = cells / pixels.to(torch.float32)
    pixel = torch.arange(begin, end, device=pixels.device)
    source = (pixel + 0.5) * scale[:, None] - 0.5
    taps = torch.arange(-2, cells + 2, device=pixels.device)
    weights = _kernel(source[:, :, None] - taps)
    # Cells beyond the border repeat the border.
    inner = weights[..., 2:-2].clone()
    inner[..., 0] += weights[..., :2].sum(dim=2)
    inner[..., -1] += weights[..., -2:].sum(dim=2)
    return inner


def _kernel(distance: Tensor) -> Tensor:
    """torch's bicubic kernel; overwrites ``distance``."""
    distance = distance.abs_().clamp_(max=2)  # beyond which it is 0
    inner = (distance * (_A + 2) - (_A + 3)).mul_(distance).mul_(distance).add_(1)
    outer = (distance - 2).square_().mul_(distance - 1).mul_(_A)
    return torch.where(distance < 1, inner, outer)


# ---- Pixels of a window -----------------------------------------------------------------------------


def _best_in_window(
    maps: Tensor, index: Tensor, cell: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the highest of the pixels within one cell of a given cell.

    Args:
        maps: (N, H, W).
        index: (M,) index of the map.
        cell: (M, 2) x, y.
        sizes: (M, 2) width and height of the resized map.

    Returns:
        (M, 2) x, y of the pixel and its value (M,).
    """
    height, width = maps.shape[1:]
    taps = torch.arange(-2, 3, device=maps.device)
    columns = cell[:, :1] + taps
    rows = cell[:, 1:] + taps
    x, in_x, weights_x = _axis(columns, width, sizes[:, 0])
    y, in_y, weights_y = _axis(rows, height, sizes[:, 1])
    at = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
    at = at + (index * (height * width))[:, None, None]
    patch = maps.reshape(-1)[at]
    values = weights_y @ (patch @ weights_x.transpose(1, 2))  # (M, pixels in y, pixels in x)
    values = values.masked_fill_(~(in_y[:, :, None] & in_x[:, None]), -math.inf)
    value, best = values.flatten(1).max(dim=1)
    best_y = torch.div(best, values.shape[2], rounding_mode="floor")
    best_x = best - best_y * values.shape[2]
    pixel = torch.stack(
        [x.gather(1, best_x[:, None])[:, 0], y.gather(1, best_y[:, None])[:, 0]], dim=1
    )
    return pixel, value


def _axis(taps: Tensor, cells: int, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels within one cell of a given cell along one axis, and their weights.

    Args:
        taps: (M, 5) cells that may have weight; the given cell is in the middle.
        cells: length of the axis in the map.
        pixels: (M,) length of the axis in the resized map, at least ``cells``.

    Returns:
        pixels (M, n) int64, whether they are valid (M, n) bool, weights of the taps (M, n, 5).
    """
    middle = taps[:, 2].to(torch.float32)
    scale = cells / pixels.to(torch.float32)
    first = ((middle - 0.5) / scale - 0.5).ceil().long().clamp(min=0)
    last = ((middle + 1.5) / scale - 0.5).floor().long()
    last = torch.minimum(last, pixels - 1)
    number = max(int((last - first).max()) + 1, 1)
    pixel = first[:, None] + torch.arange(number, device=taps.device)
    source = (pixel + 0.5) * scale[:, None] - 0.5
    weights = _kernel(source[:, :, None] - taps[:, None].to(torch.float32))
    return pixel, pixel <= last[:, None], weights


# ---- Where else the maximum may be ------------------------------------------------------------------


class _RowGroups:
    """Highest and lowest cell of each group of rows of (N, H, W) maps."""

    def __init__(self, maps: Tensor) -> None:
        number, height, width = maps.shape
        self.rows = next(rows for rows in (4, 3, 2, 1) if height % rows == 0)
        # torch reduces long contiguous pieces several times faster than single rows.
        pieces = maps.reshape(number, height // self.rows, self.rows * width)
        self.highest, self.lowest = pieces.amax(dim=2), pieces.amin(dim=2)

    def highest_cell(self, maps: Tensor) -> Tensor:
        """(N, 2) x, y of the (first) highest cell."""
        number, _, width = maps.shape
        group = self.highest.argmax(dim=1)
        pieces = maps.reshape(number * self.highest.shape[1], -1)
        first = torch.arange(number, device=maps.device) * self.highest.shape[1]
        best = pieces[first + group].max(dim=1).indices  # faster than argmax()
        row = torch.div(best, width, rounding_mode="floor")
        return torch.stack([best - row * width, group * self.rows + row], dim=1)

    def that_may_exceed(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """(F,) indices of maps and groups that may hold a cell whose bound exceeds ``value`` (N,)."""
        highest, lowest = (
            torch.stack(
                [torch.cat([x[:, :1], x[:, :-1]], 1), x, torch.cat([x[:, 1:], x[:, -1:]], 1)]
            )
            for x in (self.highest, self.lowest)
        )
        # Neighbours of a group's cells are in the group itself or in those beside it.
        span = highest.amax(dim=0) - lowest.amin(dim=0)
        bound = self.highest + (highest[1] - lowest[1]) / 4 + span / 4 + span / 8
        index, group = (bound > value[:, None]).nonzero(as_tuple=True)
        return index, group


def _cells_that_may_exceed(
    maps: Tensor, extremes: _RowGroups, value: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Find cells with a pixel around them that may exceed ``value``, the best around ``cell``.

    Returns:
        (M,) maps and (M, 2) cells x, y.
    """
    index, group = extremes.that_may_exceed(value)
    at_once = _GROUPS if maps.device.type == "cpu" else max(len(index), 1)
    parts = [
        _cells_of_groups(maps, extremes.rows, value, cell, *part)
        for part in zip(index.split(at_once), group.split(at_once))
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _cells_of_groups(
    maps: Tensor, rows: int, value: Tensor, cell: Tensor, index: Tensor, group: Tensor
) -> tuple[Tensor, Tensor]:
    """As ``_cells_that_may_exceed``, among the cells of some groups of rows; (F,) maps and groups."""
    height, width = maps.shape[1:]
    neighbours = (group * rows)[:, None] + torch.arange(-1, rows + 1, device=maps.device)
    neighbours = (index * height)[:, None] + neighbours.clamp_(0, height - 1)
    lines = maps.reshape(-1, width).index_select(0, neighbours.flatten())
    lines = lines.view(-1, rows + 2, width)
    dx = _central_differences(lines)
    dy = lines[:, 2:] - lines[:, :-2]
    twist = dx[:, 2:] - dx[:, :-2]
    bound = torch.add(lines[:, 1:-1], dx[:, 1:-1].abs(), alpha=0.25)
    bound.add_(dy.abs(), alpha=0.25).add_(twist.abs_(), alpha=1 / 16)
    limit = value[index]
    # Groups first: comparing every cell would take as long as all of the above.
    piece = (bound.flatten(1).amax(dim=1) > limit).nonzero()[:, 0]
    # One flat list: three lists of coordinates take twice as long.
    near = (bound[piece] > limit[piece, None, None]).flatten().nonzero()[:, 0]
    line = torch.div(near, width, rounding_mode="floor")
    which = torch.div(line, rows, rounding_mode="floor")
    piece, row, column = piece[which], line - which * rows, near - line * width
    index = index[piece]
    place = torch.stack([column, group[piece] * rows + row], dim=1)
    differences = dx[piece, row + 1, column], dy[piece, row, column], twist[piece, row, column]
    offset = place - cell[index]
    keep = _beside(lines[piece, row + 1, column], *differences, offset) > value[index]
    return index[keep], place[keep]


def _central_differences(lines: Tensor) -> Tensor:
    """v(x + 1) - v(x - 1) along the last axis, whose border cells repeat beyond its ends."""
    result = torch.empty_like(lines)
    torch.sub(lines[..., 2:], lines[..., :-2], out=result[..., 1:-1])
    step = min(lines.shape[-1] - 1, 1)
    torch.sub(lines[..., step], lines[..., 0], out=result[..., 0])
    torch.sub(lines[..., -1], lines[..., -1 - step], out=result[..., -1])
    return result


def _beside(v: Tensor, dx: Tensor, dy: Tensor, twist: Tensor, offset: Tensor) -> Tensor:
    """Bound cells, at (x, y) ``offset`` from the highest one, without the patches that touch that one.

    Those patches of a neighbour have been computed; only control values on the far sides remain.
    """
    x, y = offset[:, 0], offset[:, 1]
    away_x, away_y = (x * dx).clamp(min=0) / 4, (y * dy).clamp(min=0) / 4
    any_x, any_y = dx.abs() / 4, dy.abs() / 4
    beside_x = away_x + any_y  # y is 0
    beside_y = any_x + away_y  # x is 0
    corner = torch.maximum(beside_x, beside_y)
    slopes = torch.where(y == 0, beside_x, torch.where(x == 0, beside_y, corner))
    near = (x.abs() <= 1) & (y.abs() <= 1)
    slopes = torch.where(near, slopes, any_x + any_y)
    bound = v + slopes + twist / 16
    return bound.masked_fill((x == 0) & (y == 0), -math.inf)
