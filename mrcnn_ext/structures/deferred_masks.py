# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predicted masks that become dense when somebody asks for them, and not before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

from ..layers import masks_to_rle, paste_masks

__all__ = ["DeferredMaskInstances", "DeferredMasks", "instance_rles"]


class DeferredMasks:
    """n masks as a mask head gives them, with all that is needed to put them into the image."""

    def __init__(
        self, masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
    ) -> None:
        """
        Args:
            masks: (n, h, w) or (n, 1, h, w) probabilities.
            boxes: (n, 4) in pixels of the image; kept as they are now.
            image_size: (height, width).
            threshold: from which probability on a pixel is inside.
        """
        self.masks = masks
        self.boxes = boxes.clone()
        self.image_size = image_size
        self.threshold = threshold
        self._dense: Tensor | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, item) -> DeferredMasks:
        return self._replace(self.masks[item], self.boxes[item])

    def to(self, *args: Any, **kwargs: Any) -> DeferredMasks:
        """On another device; a dtype among the arguments is for the dense masks and ignored."""
        device = torch.empty(0, device=self.masks.device).to(*args, **kwargs).device
        return self._replace(self.masks.to(device), self.boxes.to(device))

    def dense(self) -> Tensor:
        """(n, height, width) bool, equal to what Detectron2's post-processing gives; kept."""
        if self._dense is None:
            self._dense = paste_masks(self.masks, self.boxes, self.image_size, self.threshold)
        return self._dense

    def rles(self) -> list[dict]:
        """COCO RLE dicts of the same masks, made without dense ones; counts are bytes."""
        return masks_to_rle(self.masks, self.boxes, self.image_size, self.threshold)

    def _replace(self, masks: Tensor, boxes: Tensor) -> DeferredMasks:
        return DeferredMasks(masks, boxes, self.image_size, self.threshold)


class DeferredMaskInstances(Instances):
    """Detectron2's Instances whose ``pred_masks`` may be deferred: set it to :class:`DeferredMasks`.

    Whoever reads ``pred_masks`` gets the (n, height, width) bool tensor that Detectron2 would have put
    there, made at that moment. Who wants RLE asks :func:`instance_rles`, and no dense mask is made.
    Indexing, ``to`` and pickling leave masks deferred; ``Instances.cat`` makes them dense.
    """

    def __getattr__(self, name: str) -> Any:
        return _read(super().__getattr__(name))

    def get(self, name: str) -> Any:
        return _read(super().get(name))

    def get_fields(self) -> dict[str, Any]:
        for name, value in self._fields.items():
            self._fields[name] = _read(value)  # callers may change what they get, and rely on it
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> DeferredMaskInstances:
        return self._map(lambda v: v.to(*args, **kwargs) if hasattr(v, "to") else v)

    def __getitem__(self, item) -> DeferredMaskInstances:
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError("Instances index out of range!")
            item = slice(item, None, len(self))
        return self._map(lambda v: v[item])

    def _map(self, function) -> DeferredMaskInstances:
        result = DeferredMaskInstances(self._image_size)
        for name, value in self._fields.items():
            result.set(name, function(value))
        return result


def _read(value: Any) -> Any:
    return value.dense() if isinstance(value, DeferredMasks) else value


def instance_rles(instances: Instances) -> list[dict] | None:
    """The masks of predicted instances as COCO RLE dicts, without dense masks where that is possible.

    Args:
        instances: after post-processing, with ``pred_masks`` (n, height, width), deferred or not.

    Returns:
        n dicts {"size": [height, width], "counts": bytes}; None if there are no ``pred_masks``.
    """
    import pycocotools.mask as mask_util

    if not instances.has("pred_masks"):
        return None
    masks = instances._fields["pred_masks"]  # not get(), which makes them dense
    if isinstance(masks, DeferredMasks):
        return masks.rles()
    result = []
    for mask in masks:
        dense = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
        result.append(mask_util.encode(np.asfortranarray(dense, dtype=np.uint8)))
    return result
