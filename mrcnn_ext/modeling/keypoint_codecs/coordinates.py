# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Coordinates on a map over a box, and back to the image.

Positions on a map are in cells: cell i's centre is at i. Image coordinates are Detectron2's:
continuous, with the centre of the first pixel at 0.5. Two frames are offered; both are linear, so
nothing is rounded on the way there or back, and both turn a mirrored box into a mirrored map (position
p into S - 1 - p).

"half_pixel"
    Cell i covers the i-th of S equal parts of the box: p = (x - x0) / w * S - 0.5. This is the frame of
    ROIAlignV2, of transposed convolutions with stride 2, of bilinear upsampling with
    align_corners=False, and of Detectron2's own labels; it is consistent with Detectron2's resizing
    (x * new / old) and flipping (W - x) of images. Positions run from -0.5 to S - 0.5: a point in the
    outer half of an outer cell lies beyond all cells' centres.
"unit_length"
    The S - 1 intervals between cells' centres span the box: p = (x - x0) / w * (S - 1), so the first
    and the last cell lie on the box's edges. This is the measure that Huang et al. ("The Devil is in
    the Details: Delving into Unbiased Data Processing for Human Pose Estimation", CVPR 2020) make all
    transforms of their pipeline share. Every point of the box is between cells' centres, which an
    expectation over cells (soft-argmax) needs. It is consistent with itself and with flips. Against the
    frame of the pooled features it is a stretch by at most half a cell at the edges, the same for every
    box, which the head learns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ConfigError

__all__ = ["FRAMES", "box_sides", "cell_sides", "check_frame", "image_to_map", "map_to_image"]

FRAMES = ("half_pixel", "unit_length")
_SMALLEST_SIDE = 1e-3  # pixels; keeps boxes without an area from dividing by zero


def check_frame(frame: str) -> str:
    """``frame`` itself.

    Raises:
        ConfigError: there is no such frame.
    """
    if frame not in FRAMES:
        raise ConfigError(f"the coordinates of a codec are '{frame}'; expected one of {FRAMES}.")
    return frame


def box_sides(boxes: Tensor) -> Tensor:
    """(R, 2) width and height of (R, 4) boxes, above 0."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=_SMALLEST_SIDE)


def cell_sides(boxes: Tensor, size: tuple[int, int], frame: str = "half_pixel") -> Tensor:
    """(R, 2) pixels of the image between two cells' centres, in x and y.

    Args:
        boxes: (R, 4).
        size: width and height of the map, in cells.
    """
    cells = [side if frame == "half_pixel" else side - 1 for side in size]
    return box_sides(boxes) / torch.tensor(cells, dtype=boxes.dtype, device=boxes.device)


def image_to_map(
    points: Tensor, boxes: Tensor, size: tuple[int, int], frame: str = "half_pixel"
) -> Tensor:
    """(R, K, 2) positions x, y on maps over boxes.

    Args:
        points: (R, K, 2) x, y in pixels of the image.
        boxes: (R, 4) in pixels of the image.
        size: width and height of the map, in cells.
        frame: one of ``FRAMES``.
    """
    sides = cell_sides(boxes, size, frame)
    positions = (points - boxes[:, None, :2]) / sides[:, None]
    return positions - 0.5 if frame == "half_pixel" else positions


def map_to_image(
    positions: Tensor, boxes: Tensor, size: tuple[int, int], frame: str = "half_pixel"
) -> Tensor:
    """The inverse of :func:`image_to_map`."""
    if frame == "half_pixel":
        positions = positions + 0.5
    return positions * cell_sides(boxes, size, frame)[:, None] + boxes[:, None, :2]
