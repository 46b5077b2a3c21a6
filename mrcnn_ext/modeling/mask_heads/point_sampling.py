# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Functions of ``detectron2.projects.point_rend.point_features``, under the names they have there.

Those in this file differ from Detectron2's: they sample in float32 whatever the dtype of the maps, also
under autocast (which makes Detectron2's grid half precision), continue the outermost pixels beyond
their centres (where Detectron2's fade to 0, and so draw points to the border), and do not make the host
wait for a GPU. The others are used from Detectron2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.projects.point_rend import point_features
from detectron2.projects.point_rend.point_features import (
    get_point_coords_wrt_image,
    get_uncertain_point_coords_on_grid,
)
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = [
    "generate_regular_grid_point_coords",
    "get_point_coords_wrt_image",
    "get_uncertain_point_coords_on_grid",
    "get_uncertain_point_coords_with_randomness",
    "point_sample",
    "point_sample_fine_grained_features",
]


def point_sample(planes: Tensor, points: Tensor) -> Tensor:
    """Bilinear values at points; beyond the centres of the outermost pixels, those pixels' values.

    Args:
        planes: (R, C, H, W).
        points: (R, P, 2) or (R, P, Q, 2), x and y, where 0 and 1 are the borders of the plane.

    Returns:
        (R, C, P) or (R, C, P, Q), float32 or float64.
    """
    dtype = torch.float64 if planes.dtype == torch.float64 else torch.float32
    return point_features.point_sample(
        planes.to(dtype), points.to(dtype), padding_mode="border", align_corners=False
    )


def point_sample_fine_grained_features(
    maps: list[Tensor], scales: list[float], boxes: list[Boxes], points: Tensor
) -> Tensor:
    """Bilinear values of feature maps at points of RoIs, for all images in one call.

    Args:
        maps: (N, C_i, H_i, W_i) each; the centre of the first pixel is half a pixel from the corner.
        scales: pixels of the map to a pixel of the image, for each map.
        boxes: N Boxes, R in all.
        points: (R, P, 2), x and y relative to the boxes, where 0 and 1 are their borders.

    Returns:
        (R, sum of C_i, P), float32 or float64.
    """
    points = get_point_coords_wrt_image(Boxes.cat(boxes).tensor, points)
    counts = [len(item) for item in boxes]
    if len(points) == 0:
        channels = sum(item.shape[1] for item in maps)
        nothing = points.new_zeros((0, channels, points.shape[1]))
        return nothing + sum(item.sum() for item in maps) * 0
    # Images with fewer RoIs are filled up. Sampling them one by one would instead have a gradient of
    # the size of all maps for each image.
    one = len(boxes) == 1  # spares a copy, and exported graphs an operator that they do not have
    padded = points[None] if one else pad_sequence(list(points.split(counts)), batch_first=True)
    return torch.cat([_sample_map(*item, padded, counts) for item in zip(maps, scales)], dim=1)


def _sample_map(feature_map: Tensor, scale: float, padded: Tensor, counts: list[int]) -> Tensor:
    height, width = feature_map.shape[-2:]
    relative = torch.stack(
        [padded[..., 0] / (width / scale), padded[..., 1] / (height / scale)], dim=-1
    )
    sampled = point_sample(feature_map, relative)
    return torch.cat([item[:, :count].transpose(0, 1) for item, count in zip(sampled, counts)])


def generate_regular_grid_point_coords(rois: int, side: int, device: torch.device) -> Tensor:
    """(rois, side * side, 2) centres of the cells of a grid, row by row, relative to its borders."""
    centres = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], dim=-1).view(1, -1, 2).expand(rois, -1, -1)


def get_uncertain_point_coords_with_randomness(
    logits: Tensor,
    uncertainty: Callable[[Tensor], Tensor],
    number: int,
    oversample_ratio: float,
    importance_ratio: float,
) -> Tensor:
    """Random points to train on, most of them where a mask is uncertain (Kirillov et al. 2020, 3.3).

    Args:
        logits: (R, C, H, W) of coarse masks.
        uncertainty: (R, 1, P) uncertainties from (R, C, P) logits at points.
        number: points of each RoI.
        oversample_ratio: uniformly drawn candidates per point, 1 or more.
        importance_ratio: share of the points, 0 to 1, that are the most uncertain candidates. The
            others are drawn uniformly.

    Returns:
        (R, number, 2), x and y between 0 and 1.
    """
    rois, device = logits.shape[0], logits.device
    chosen = int(importance_ratio * number)
    candidates = torch.rand((rois, int(oversample_ratio * number), 2), device=device)
    values = uncertainty(point_sample(logits, candidates))[:, 0]
    indices = values.topk(chosen, dim=1, sorted=False).indices
    uncertain = candidates.gather(1, indices[..., None].expand(-1, -1, 2))
    others = torch.rand((rois, number - chosen, 2), device=device)
    return torch.cat([uncertain, others], dim=1)
