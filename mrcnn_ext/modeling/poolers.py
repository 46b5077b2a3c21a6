# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's ROIPooler on one op for all levels, and its use in existing models."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..layers import roi_align_pyramid
from .scripting import inherited

__all__ = ["FusedROIPooler", "fuse_pooler", "swap_poolers"]

T = TypeVar("T")


class FusedROIPooler(ROIPooler):
    """Detectron2's ROIPooler with RoIAlign of all levels in one op; same constructor and results.

    Pooler types "ROIAlign" and "ROIAlignV2" run on :func:`mrcnn_ext.layers.roi_align_pyramid`. The
    others run on Detectron2's own code, and so does every type under ``torch.jit.trace``,
    ``torch.jit.script`` and ``torch.onnx.export``: an exported model needs nothing of this package.
    ``torch.compile`` and ``torch.export`` keep the op. Three things are better than in Detectron2:
    boxes are not cast to half precision with the features (under AMP that moves samples by up to
    0.4 pixels in float16 and 4.6 in bfloat16), results of several levels need not be square, and a
    batch without images gives a result with a gradient.
    """

    # All state is Detectron2's, so an existing pooler can become one of this class.

    _per_level = inherited(ROIPooler.forward, "_per_level")

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """
        Args:
            x: one (N, C, H_l, W_l) feature map for each scale.
            box_lists: N Boxes, one for each image, in pixels of the image. Their coordinates are
                never rounded.

        Returns:
            (M, C, h, w) for the M boxes of all images in order, in the features' dtype.

        Raises:
            TypeError, ValueError: the lists do not match the pooler or each other.
        """
        if torch.jit.is_scripting():
            return self._per_level(x, box_lists)
        else:
            return self._forward(x, box_lists)

    def _forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        # The old ONNX exporter traces, the new one exports with torch.export.
        if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or not _is_roi_align(self):
            return super().forward(x, box_lists)
        poolers = list(self.level_poolers)
        if not isinstance(x, list) or not isinstance(box_lists, list):
            raise TypeError(
                "FusedROIPooler takes a list of feature maps and a list of Boxes, not "
                f"{type(x).__name__} and {type(box_lists).__name__}."
            )
        if len(x) != len(poolers):
            raise ValueError(f"FusedROIPooler has {len(poolers)} scales, but got {len(x)} maps.")
        if len(box_lists) != x[0].shape[0]:
            raise ValueError(
                f"FusedROIPooler got boxes of {len(box_lists)} images, but features of "
                f"{x[0].shape[0]}."
            )
        return roi_align_pyramid(
            [feature.dequantize() if feature.is_quantized else feature for feature in x],
            _to_rois(box_lists, x[0]),
            [pooler.spatial_scale for pooler in poolers],
            tuple(self.output_size),
            poolers[0].sampling_ratio,
            poolers[0].aligned,
            self.canonical_box_size,
            self.canonical_level,
        )


def _is_roi_align(pooler: ROIPooler) -> bool:
    # The exact class: a subclass is someone's own operator.
    return all(type(level) is ROIAlign for level in pooler.level_poolers)


def _to_rois(box_lists: list[Boxes], feature: Tensor) -> Tensor:
    """(M, 5) float32 or float64 rows (image, x0, y0, x1, y1).

    Detectron2's convert_boxes_to_pooler_format counts boxes on the host, which waits for the GPU.
    """
    if not box_lists:
        return feature.new_zeros((0, 5), dtype=torch.float32)
    boxes = [item.tensor for item in box_lists]
    rows = [
        # float32 before the index is written: bfloat16 cannot count images beyond 256
        item if item.dtype in (torch.float32, torch.float64) else item.float()
        for item in boxes
    ]
    images = [torch.full_like(item[:, :1], index) for index, item in enumerate(rows)]
    return torch.cat([torch.cat(images), torch.cat(rows)], dim=1)


def fuse_pooler(pooler: T) -> T | FusedROIPooler:
    """Copy a Detectron2 pooler as a :class:`FusedROIPooler`.

    Args:
        pooler: anything that RoI heads take as pooler. It is not changed.

    Returns:
        A fused copy of a Detectron2 ROIPooler of type "ROIAlign" or "ROIAlignV2". Anything else
        (other types, subclasses, None) is returned as it is.
    """
    if type(pooler) is ROIPooler and _is_roi_align(pooler):
        fused = copy.deepcopy(pooler)  # cheap: it has no parameters
        fused.__class__ = FusedROIPooler
        return fused
    return pooler


def swap_poolers(model: nn.Module) -> int:
    """Turn the Detectron2 poolers of a built model into fused ones, in place.

    This concerns ROIPoolers of type "ROIAlign" or "ROIAlignV2" anywhere in the model, not other types
    or subclasses. The modules keep their identity, hooks and names; state_dict and results stay the
    same.

    Args:
        model: any module, for example the result of ``build_model`` or ``instantiate``.

    Returns:
        The number of poolers that were swapped; 0 on a second call.

    Raises:
        TypeError: ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        hint = "; build it first, with build_model or instantiate" if hasattr(model, "keys") else ""
        raise TypeError(f"swap_poolers takes an nn.Module, not {type(model).__name__}{hint}.")
    poolers = [m for m in model.modules() if type(m) is ROIPooler and _is_roi_align(m)]
    for pooler in poolers:
        pooler.__class__ = FusedROIPooler
    return len(poolers)
