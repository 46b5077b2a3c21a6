# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Parts of heads in a form that ONNX can hold, while a model is traced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling.roi_heads import BaseKeypointRCNNHead
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F
from torch.onnx import symbolic_helper

from ..modeling.keypoint_codecs import KeypointCodec, OneHotCodec
from ..modeling.keypoint_heads import KeypointHeadBase, MaskGuide

__all__ = ["keypoint_head_of", "leaves_maps", "symbolics", "traceable"]


def keypoint_head_of(model: nn.Module) -> nn.Module | None:
    heads = model.roi_heads
    return getattr(heads, "keypoint_head", None) if getattr(heads, "keypoint_on", False) else None


def leaves_maps(model: nn.Module) -> bool:
    """Whether the keypoints of a model are decoded by the runner, from its heatmaps.

    Detectron2's decoding resizes each box's maps to a size of their own, which a graph can do in a slow
    loop only. All other codecs become a part of the graph.
    """
    head = keypoint_head_of(model)
    if isinstance(head, KeypointHeadBase):
        return isinstance(head.codec, OneHotCodec)
    return isinstance(head, BaseKeypointRCNNHead)


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Replace what cannot be traced, until this ends; weights are shared, results stay the same.

    Detectron2's own means for ``len`` (``patch_builtin_len``) covers its modules only; here it also
    gets this package's and those of registered heads.
    """
    head = keypoint_head_of(model)
    with ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        if isinstance(head, KeypointHeadBase):
            if leaves_maps(model):
                replace(head, "codec", _NoDecoding())
                replace(head, "fold_score", False)  # the runner does it when it has decoded
            if isinstance(getattr(head, "pool", None), nn.AdaptiveAvgPool2d):
                replace(head, "pool", _AveragePool(head.pool))
            if head.mask_guide is not None:
                replace(head, "mask_guide", _MaskGuide(head.mask_guide))
        elif isinstance(head, BaseKeypointRCNNHead):
            replace(model.roi_heads, "keypoint_head", _MapsOnly(head))
        for part in model.backbone.modules():
            if type(part).__name__ == "Conv2dSame" and model.backbone.size_divisibility > 1:
                stack.callback(vars(part).pop, "forward")
                part.forward = partial(_same_convolution, part)
        stack.enter_context(patch_builtin_len(_modules(model)))
        yield


def _same_convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """timm's Conv2dSame, whose padding depends on the size of the map, as TensorFlow's does.

    Images are padded to a multiple of all strides first, so that it is the same for every size. As a
    constant it becomes a part of the convolution; and OpenVINO infers wrong shapes from the other.
    """
    sides = zip(layer.kernel_size, layer.stride, layer.dilation)
    rows, columns = (max((k - 1) * d + 1 - s, 0) for k, s, d in sides)
    padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.conv2d(
        F.pad(x, padding), layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups
    )


def _modules(model: nn.Module) -> list[str]:
    """Where ``len`` of instances may be written: it makes a constant of what the trace must count."""
    own = {name for name in sys.modules if name.startswith("mrcnn_ext.modeling.")}
    kinds = {kind for part in model.roi_heads.modules() for kind in type(part).__mro__}
    others = {kind.__module__ for kind in kinds}
    library = ("torch.", "detectron2.", "builtins")
    return sorted(own | {name for name in others if not f"{name}.".startswith(library)})


class _NoDecoding(KeypointCodec):
    kind = "heatmap"
    scores = ("max",)

    def decode(self, predictions: Tensor, boxes: Tensor) -> Tensor:
        return predictions[..., :3, 0] * 0


class _MapsOnly(nn.Module):
    """A keypoint head of Detectron2 without its decoding."""

    def __init__(self, head: BaseKeypointRCNNHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, instances: list[Instances]) -> list[Instances]:
        instances[0].pred_keypoint_heatmaps = self.head.layers(features)
        return instances


class _AveragePool(nn.Module):
    """Adaptive average pooling by :class:`_Resize`."""

    def __init__(self, pool: nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        size = pool.output_size
        self.size = (size, size) if isinstance(size, int) else size
        self.resize = _Resize(F.adaptive_avg_pool1d)

    def forward(self, x: Tensor) -> Tensor:
        return self.resize(x, self.size)


class _MaskGuide(nn.Module):
    """:class:`MaskGuide` at inference, with :class:`_Resize`."""

    def __init__(self, guide: MaskGuide) -> None:
        super().__init__()
        self.guide = guide
        self.resize = _Resize(_antialiased)

    def forward(self, features: Tensor, instances: list[Instances]) -> Tensor:
        masks = instances[0].pred_masks.float()
        return features + self.guide.conv(self.resize(masks, features.shape[-2:]) * 2 - 1)


def _antialiased(rows: Tensor, size: int) -> Tensor:
    images = F.interpolate(
        rows[:, None], (rows.shape[1], size), mode="bilinear", antialias=True, align_corners=False
    )
    return images[:, 0]


class _Resize(nn.Module):
    """A separable linear resizing, from one fixed size to another, as products with two matrices.

    The first call makes them, which must not be traced: an eager one comes before the trace.
    """

    def __init__(self, resize_rows: Callable[[Tensor, int], Tensor]) -> None:
        """
        Args:
            resize_rows: (1, n, m) and a length -> (1, n, length).
        """
        super().__init__()
        self.resize_rows = resize_rows
        self.matrices: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, size: Any) -> Tensor:
        if self.matrices is None:
            assert not torch.jit.is_tracing(), "run the model once before it is traced"
            self.matrices = (
                self.resize_rows(torch.eye(x.shape[2])[None], size[0])[0].t().to(x),
                self.resize_rows(torch.eye(x.shape[3])[None], size[1])[0].to(x),
            )
        rows, columns = self.matrices
        return rows @ x @ columns


# ---- Operators that the exporter does not know ------------------------------------------------------

# Of Numerical Recipes' erfcc, whose relative error is below 1.2e-7: exp(x^2) erfc(x) for x of 0 or more
_ERFCX = (
    *(-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398),
    *(1.48851587, -0.82215223, 0.17087277),
)


@contextmanager
def symbolics(opset: int) -> Iterator[None]:
    """Tell PyTorch's exporter how to write what traced models need besides, until this ends."""
    known = {
        "aten::special_erfcx": _erfcx,
        "aten::_upsample_bilinear2d_aa": _resize_antialiased,
        "torchvision::nms": _nms,
    }
    for name, symbolic in known.items():
        torch.onnx.register_custom_op_symbolic(name, symbolic, opset)
    try:
        yield
    finally:
        for name in known:
            torch.onnx.unregister_custom_op_symbolic(name, opset)


def _erfcx(g, x):
    def constant(value: float):
        return g.op("Constant", value_t=torch.tensor(value, dtype=torch.float32))

    t = g.op("Reciprocal", g.op("Add", g.op("Mul", x, constant(0.5)), constant(1.0)))
    total = constant(_ERFCX[-1])
    for factor in reversed(_ERFCX[:-1]):
        total = g.op("Add", g.op("Mul", total, t), constant(factor))
    return g.op("Mul", t, g.op("Exp", total))


def _resize_antialiased(g, x, size, *rest):
    del rest  # align_corners, which is False, and scales: the size says all
    if size.node().kind() == "prim::ListConstruct":
        parts = [g.op("Unsqueeze", part, _axis(g)) for part in size.node().inputs()]
        size = g.op("Concat", *parts, axis_i=0)
    shape = g.op("Slice", g.op("Shape", x), _axis(g), _axis(g, 2))
    sizes = g.op("Concat", shape, g.op("Cast", size, to_i=7), axis_i=0)
    return g.op(
        "Resize",
        x,
        g.op("Constant", value_t=torch.zeros(0)),
        g.op("Constant", value_t=torch.zeros(0)),
        sizes,
        mode_s="linear",
        antialias_i=1,
        exclude_outside_i=1,
        coordinate_transformation_mode_s="half_pixel",
    )


def _nms(g, boxes, scores, iou_threshold):
    """As torchvision writes it, but for the score threshold.

    Where there is none, OpenVINO takes 0, which drops most of the RPN's logits.
    """

    def constant(value: float, dtype: torch.dtype):
        return g.op("Constant", value_t=torch.tensor([value], dtype=dtype))

    chosen = g.op(
        "NonMaxSuppression",
        g.op("Unsqueeze", boxes, _axis(g)),
        g.op("Unsqueeze", scores, g.op("Constant", value_t=torch.tensor([0, 1]))),
        constant(2**31 - 1, torch.int64),
        constant(symbolic_helper._node_get(iou_threshold.node(), "value").item(), torch.float32),
        constant(torch.finfo(torch.float32).min, torch.float32),
    )
    column = g.op("Gather", chosen, g.op("Constant", value_t=torch.tensor(2)), axis_i=1)
    return column  # (N,) of rows (batch, class, box)


def _axis(g, value: int = 0):
    return g.op("Constant", value_t=torch.tensor([value], dtype=torch.int64))
