# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN's codec: a classification of the heatmap's cells."""

from __future__ import annotations

import torch
from detectron2.structures import Keypoints, heatmaps_to_keypoints
from torch import Tensor
from torch.nn import functional as F

from ...layers import bicubic_peaks
from .heatmap import HeatmapCodec
from .registry import KEYPOINT_CODEC_REGISTRY

__all__ = ["OneHotCodec", "fast_heatmaps_to_keypoints"]

_GPU_CHUNK = 16384  # maps that go through at once


@KEYPOINT_CODEC_REGISTRY.register()
class OneHotCodec(HeatmapCodec):
    """A classification of the map's cells (He et al., "Mask R-CNN", sec. 5), as in Detectron2.

    Labels, loss and decoded keypoints are Detectron2's (see :func:`fast_heatmaps_to_keypoints`). The
    label is the cell that contains the point; where in the cell is lost: up to half a cell, 1.8 x 3.6
    pixels in a box of 200 x 400 at 56 cells.

    Points outside the box have no cell and do not count. Scores: "max", Detectron2's, the peak against
    the sum of the map; "oks", see :func:`expected_oks_of_map`.
    """

    name = "one_hot"

    def encode(
        self, boxes: Tensor, keypoints: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(R, K) int64 index of the cell, row by row, 0 where there is none; (R, K) bool.

        Raises:
            ValueError: the map is not square, as Detectron2's labels must be.
        """
        if size[0] != size[1]:
            raise ValueError(f"Maps of {size} cells; OneHotCodec expects a square.")
        if len(boxes) == 0:
            nothing = torch.zeros(keypoints.shape[:2], dtype=torch.int64, device=boxes.device)
            return nothing, nothing.bool()
        labels, valid = Keypoints(keypoints).to_heatmap(boxes, size[0])
        return labels, valid.bool()

    def loss(
        self,
        predictions: Tensor,
        boxes: Tensor,
        keypoints: Tensor,
        normalizer: float | None = None,
    ) -> Tensor:
        """Cross entropy over the cells. ``predictions``: (R, K, S, S) logits."""
        size = (predictions.shape[3], predictions.shape[2])
        labels, valid = self.encode(boxes, keypoints, size)
        logits = predictions.float().flatten(0, 1).flatten(1)
        labels = labels.masked_fill(~valid, -1).flatten()
        if logits.device.type == "cpu":
            # As Detectron2 does, so that the sum is equal to the bit. On a GPU the host would wait.
            counts = valid.flatten()
            logits, labels = logits[counts], labels[counts]
        total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        return total / (valid.sum().clamp(min=1) if normalizer is None else normalizer)

    @torch.no_grad()
    def decode(self, predictions: Tensor, boxes: Tensor) -> Tensor:
        """(R, K, 3) x, y, score. ``predictions``: (R, K, S, S) logits."""
        logits = predictions.float()
        found = fast_heatmaps_to_keypoints(logits, boxes.to(logits.dtype))
        if self.score == "max":
            return found[..., [0, 1, 3]]
        score = self.expected_oks(logits, found[..., :2], boxes)
        return torch.cat([found[..., :2], score[..., None]], dim=2)


@torch.no_grad()
def fast_heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> Tensor:
    """Detectron2's ``heatmaps_to_keypoints`` for all regions at once, without resizing the maps.

    It finds the same pixel (see :mod:`mrcnn_ext.layers.heatmap_peaks`): coordinates equal Detectron2's
    but for the last bits, logits and scores agree to about 1e-5. If two pixels of the resized map are
    equal up to float32's rounding, either may be the result, in Detectron2 as here.

    Args:
        maps: (R, K, H, W) logits.
        rois: (R, 4) boxes.

    Returns:
        (R, K, 4) x, y, logit, score.
    """
    if torch.jit.is_tracing():
        return heatmaps_to_keypoints(maps, rois)
    maps, rois = maps.detach(), rois.detach()
    sides = (rois[:, 2:] - rois[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    x, y, logit = bicubic_peaks(maps, *pixels.long().unbind(1))
    position = torch.stack([x, y], dim=2).to(rois.dtype) + 0.5
    position = position * (sides / pixels)[:, None] + rois[:, None, :2]
    score = 1 / _sum_of_exp(maps.flatten(0, 1), logit.flatten()).view_as(logit)
    rest = torch.stack([logit, score], dim=2)
    return torch.cat([position, rest.to(position.dtype)], dim=2)


def _sum_of_exp(maps: Tensor, shift: Tensor) -> Tensor:
    """(N,) sums of exp(map - shift) over (N, H, W) maps, Detectron2's measure of a peak."""
    # Some maps at a time and in one place, so that they stay in a CPU's cache
    cells = maps.flatten(1)
    chunk = min(48 if maps.device.type == "cpu" else _GPU_CHUNK, max(len(maps), 1))
    buffer = cells.new_empty((chunk, cells.shape[1]))
    result = torch.empty_like(shift)
    for first in range(0, len(cells), chunk):
        part = slice(first, first + chunk)
        shifted = torch.sub(cells[part], shift[part, None], out=buffer[: len(cells[part])])
        torch.sum(shifted.exp_(), dim=1, out=result[part])
    return result
