# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Lazily pasted predicted masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.structures import Instances, ROIMasks
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor

from ..coco.rle import encode_mask
from ..layers import masks_to_rle, paste_masks

__all__ = ["DeferredMaskInstances", "DeferredMasks", "instance_rles"]


class DeferredMasks:
    """R masks of a mask head, with the boxes and the size of the image to paste them into.

    Attributes:
        masks: (R, h, w) scores.
        boxes: (R, 4) tensor; x0, y0, x1, y1 in pixels of the image.
        image_size: (height, width).
        threshold: a pixel with this score or more belongs to the mask.
    """

    def __init__(
        self, masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
    ) -> None:
        """Arguments as the attributes; masks may also be (R, 1, h, w). Boxes are copied."""
        self.masks = masks[:, 0] if masks.dim() == 4 else masks
        # Scaling the instances' boxes later must not move the masks.
        self.boxes = boxes.clone()
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.threshold = threshold

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, item) -> DeferredMasks:
        return self._like(self.masks[item], self.boxes[item])

    def __repr__(self) -> str:
        return f"DeferredMasks({tuple(self.masks.shape)} on {self.masks.device})"

    def to(self, *args: Any, **kwargs: Any) -> DeferredMasks:
        """On another device. The masks will be pasted there."""
        return self._like(self.masks.to(*args, **kwargs), self.boxes.to(*args, **kwargs))

    def dense(self) -> Tensor:
        """(R, height, width) bool, a new tensor: what Detectron2's post-processing gives."""
        paste = retry_if_cuda_oom(paste_masks)
        return paste(self.masks, self.boxes, self.image_size, self.threshold).to(torch.bool)

    def rles(self) -> list[dict]:
        """COCO RLE dicts, without dense masks; see :func:`mrcnn_ext.layers.masks_to_rle`."""
        return masks_to_rle(self.masks, self.boxes, self.image_size, self.threshold)

    def fits(self, other: object) -> bool:
        """Whether :meth:`cat` can join the two."""
        return (
            isinstance(other, DeferredMasks)
            and self.image_size == other.image_size
            and self.threshold == other.threshold
            and self.masks.shape[1:] == other.masks.shape[1:]
            and self.masks.dtype == other.masks.dtype
        )

    @staticmethod
    def cat(parts: list[DeferredMasks]) -> DeferredMasks:
        masks, boxes = torch.cat([p.masks for p in parts]), torch.cat([p.boxes for p in parts])
        return parts[0]._like(masks, boxes)

    def _like(self, masks: Tensor, boxes: Tensor) -> DeferredMasks:
        return DeferredMasks(masks, boxes, self.image_size, self.threshold)


class DeferredMaskInstances(Instances):
    """Detectron2's Instances with lazily pasted ``pred_masks``.

    Set ``pred_masks`` to :class:`DeferredMasks`. The first read of it, by attribute, ``get`` or
    ``get_fields``, pastes the masks: the field is then the (R, height, width) bool tensor that
    Detectron2 would have put there. Until then indexing, ``to``, ``cat``, copies and pickles stay
    small, and :func:`instance_rles` needs no dense masks.
    """

    @property
    def deferred_masks(self) -> DeferredMasks | None:
        """The masks if they are not pasted yet, else None. Does not paste them."""
        value = self._fields.get("pred_masks")
        return value if isinstance(value, DeferredMasks) else None

    def get(self, name: str) -> Any:
        value = self._fields[name]
        if isinstance(value, DeferredMasks):
            value = self._fields[name] = value.dense()
        return value

    def __getattr__(self, name: str) -> Any:
        # _fields itself is missing while copy and pickle make a new object.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Cannot find field '{name}' in the given Instances!")
        return self.get(name)

    def get_fields(self) -> dict[str, Any]:
        for name in self._fields:
            self.get(name)
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> DeferredMaskInstances:
        return self._map(lambda v: v.to(*args, **kwargs) if hasattr(v, "to") else v)

    def __getitem__(self, item) -> DeferredMaskInstances:
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError("Instances index out of range!")
            item = slice(item, None, len(self))
        return self._map(lambda v: v[item])

    def _map(self, function: Callable) -> DeferredMaskInstances:
        result = DeferredMaskInstances(self.image_size)
        for name, value in self._fields.items():
            result.set(name, function(value))
        return result

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """As Instances.cat; masks stay deferred if all of them are and fit together."""
        values = [instances._fields.get("pred_masks") for instances in instance_lists]
        parts = [value for value in values if isinstance(value, DeferredMasks)]
        if not parts or len(parts) < len(values) or not all(parts[0].fits(p) for p in parts):
            return Instances.cat(instance_lists)
        # The other fields are joined by Detectron2, in copies that share them.
        rest = []
        for instances in instance_lists:
            fields = {k: v for k, v in instances._fields.items() if k != "pred_masks"}
            rest.append(Instances(instances.image_size, **fields))
        result = DeferredMaskInstances(instance_lists[0].image_size)
        joined = Instances.cat(rest)._fields if rest[0]._fields else {}
        for name in instance_lists[0]._fields:
            result.set(name, DeferredMasks.cat(parts) if name == "pred_masks" else joined[name])
        return result


def instance_rles(instances: Instances) -> list[dict] | None:
    """Encode the masks of predicted instances as COCO RLE, without dense masks where possible.

    Args:
        instances: after post-processing. ``pred_masks`` may be deferred, a bool tensor or array
            (R, height, width), BitMasks, or ROIMasks (which lie in ``pred_boxes``).

    Returns:
        R dicts {"size": [height, width], "counts": bytes}; None if there are no ``pred_masks``.
    """
    if not instances.has("pred_masks"):
        return None
    masks = instances._fields["pred_masks"]  # get() would make them dense
    if isinstance(masks, DeferredMasks):
        return masks.rles()
    if isinstance(masks, ROIMasks):
        return masks_to_rle(masks.tensor, instances.pred_boxes, instances.image_size)
    masks = getattr(masks, "tensor", masks)
    return [encode_mask(mask.cpu() if isinstance(mask, Tensor) else mask) for mask in masks]
