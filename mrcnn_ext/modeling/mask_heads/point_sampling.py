# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Values at points: of masks, of feature maps, and which points are worth asking for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

__all__ = [
    "grid_points",
    "points_in_image",
    "sample_maps",
    "sample_points",
    "uncertain_cells",
    "uncertain_points",
]


def sample_points(planes: Tensor, points: Tensor) -> Tensor:
    """Bilinear values at points; beyond the centres of the outermost pixels, those pixels' values.

    Args:
        planes: (R, C, H, W). Half precision is sampled in float32, which positions need.
        points: (R, P, 2), x and y, where 0 and 1 are the borders of the plane.

    Returns:
        (R, C, P), float32 or float64.
    """
    return _sample(planes, points[:, :, None])[..., 0]


def sample_maps(maps: Tensor, stride: int, points: Tensor, counts: list[int]) -> Tensor:
    """Bilinear values of feature maps at points of RoIs, for all images in one call.

    Args:
        maps: (N, C, H, W); the centre of pixel (0, 0) is at ``stride / 2`` pixels of the image.
        stride: pixels of the image to a pixel of the map.
        points: (R, P, 2), x and y in pixels of the image.
        counts: how many of the R RoIs each of the N images has.

    Returns:
        (R, C, P), float32 or float64.
    """
    height, width = maps.shape[-2:]
    relative = torch.stack(
        [points[..., 0] / (width * stride), points[..., 1] / (height * stride)], dim=-1
    )
    if len(relative) == 0:
        return relative.new_zeros((0, maps.shape[1], relative.shape[1])) + maps.sum() * 0
    # Images with fewer RoIs are filled up. Sampling them one by one would instead have a gradient of
    # the size of all maps for each image.
    padded = pad_sequence(list(relative.split(counts)), batch_first=True)
    sampled = _sample(maps, padded)
    rows = [item[:, :count].transpose(0, 1) for item, count in zip(sampled, counts)]
    return torch.cat(rows)


def points_in_image(boxes: Tensor, points: Tensor) -> Tensor:
    """(R, P, 2) points in pixels of the image, from (R, 4) boxes and points relative to them."""
    corner, sides = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return corner + points * sides


def grid_points(rois: int, side: int, like: Tensor) -> Tensor:
    """(rois, side * side, 2) centres of the cells of a grid, row by row, relative to its borders."""
    cells = torch.arange(side * side, device=like.device)
    return _cell_centres(cells, side).expand(rois, -1, -1)


def uncertain_cells(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The cells of a mask whose logits are closest to 0, from which an answer is least certain.

    Args:
        logits: (R, S, S).
        count: how many of them; all if there are not so many.

    Returns:
        (R, k) int64 indices into the flattened masks, and (R, k, 2) centres of the cells.
    """
    side = logits.shape[-1]
    certainty = logits.flatten(1).abs()
    cells = certainty.topk(min(count, side * side), dim=1, largest=False, sorted=False).indices
    return cells, _cell_centres(cells, side)


def uncertain_points(logits: Tensor, count: int, oversample: float, importance: float) -> Tensor:
    """Random points to train on, most of them where a mask is uncertain (Kirillov et al. 2020, 3.3).

    Args:
        logits: (R, H, W) of a coarse mask.
        count: points of each RoI.
        oversample: this times ``count`` candidates are drawn, uniformly.
        importance: the share of points, 0 to 1, that are the most uncertain candidates. The others
            are drawn uniformly.

    Returns:
        (R, count, 2), x and y between 0 and 1.
    """
    rois = logits.shape[0]
    chosen = int(importance * count)
    candidates = torch.rand(
        (rois, max(chosen, int(oversample * count)), 2), device=logits.device, dtype=torch.float32
    )
    certainty = sample_points(logits[:, None], candidates)[:, 0].abs()
    indices = certainty.topk(chosen, dim=1, largest=False, sorted=False).indices
    uncertain = candidates.gather(1, indices[..., None].expand(-1, -1, 2))
    others = torch.rand((rois, count - chosen, 2), device=logits.device, dtype=torch.float32)
    return torch.cat([uncertain, others], dim=1)


def _sample(planes: Tensor, points: Tensor) -> Tensor:
    """(B, C, P, Q) of (B, C, H, W) at (B, P, Q, 2)."""
    dtype = torch.float64 if planes.dtype == torch.float64 else torch.float32
    grid = 2 * points.to(dtype) - 1
    return F.grid_sample(
        planes.to(dtype), grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _cell_centres(cells: Tensor, side: int) -> Tensor:
    rows = torch.div(cells, side, rounding_mode="floor")
    return torch.stack([(cells - rows * side + 0.5) / side, (rows + 0.5) / side], dim=-1)
