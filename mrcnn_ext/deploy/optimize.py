# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Make a built Detectron2 model faster for inference; same interface, same results."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork, SemanticSegmentor
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from torch import nn

from ..errors import ConfigError
from ..modeling import swap_poolers
from ..modeling.compute import Recomputed
from ..modeling.meta_arch import MrcnnExtRCNN, postprocess
from ..modeling.mixins import ModuleMixin, mix_in, take_out
from ..precision import DTYPES, compute_dtype, why_not
from .compiled import check_compiler, compile_layers
from .convolutions import speed_up_convolutions
from .fold import fold_norms
from .half import halve
from .heads import speed_up_heads
from .mask_budget import set_min_mask_score
from .results import ordinary

__all__ = ["can_optimize", "optimize"]

logger = logging.getLogger(__name__)

_KINDS = (GeneralizedRCNN, DenseDetector, ProposalNetwork, SemanticSegmentor)
_TRAINING = (
    "this model was made for inference by mrcnn_ext.deploy.optimize: its BatchNorm layers are folded "
    "into the convolutions. Train the model that it was made from."
)


def optimize(
    model: nn.Module,
    *,
    dtype: str = "auto",
    compile: bool = False,
    in_place: bool = False,
    min_mask_score: float = 0.0,
) -> nn.Module:
    """Make a model faster for inference.

    BatchNorm is folded into the convolutions before it, weights and images are stored channels_last,
    RoIAlign runs on this package's fused pooler, masks are pasted when they are read, keypoints are
    found without resized heatmaps, and nothing is recorded for gradients. docs/deployment.md says what
    each step gives.

    Args:
        model: any Detectron2 R-CNN (GeneralizedRCNN, stock or of this package; yaml or LazyConfig), or
            a RetinaNet, FCOS, PanopticFPN, ProposalNetwork or SemanticSegmentor, with its weights
            loaded and on its device.
        dtype: what the layers compute in. "float32" changes nothing but rounding. "bfloat16" and
            "float16" are for hardware that has them: feature maps are rounded to 8 and 11 bits, while
            anchors, boxes, their decoding and NMS stay float32. "auto": float32 on a CPU, bfloat16 on a
            GPU that has it.
        compile: also compile backbone and neck, and the heads' layers, with ``torch.compile``; not what
            depends on the number of boxes. The first images then take a minute and more, and so does
            each further size.
        in_place: change ``model`` itself; it is then for inference alone. False changes a copy, which
            costs the memory of the weights a second time.
        min_mask_score: compute masks for detections with this score or more only. The others keep box,
            class and score, and get an empty mask. 0: all masks, as Detectron2.

    Returns:
        a model in evaluation mode, with the interface of ``model``: of its class, called with
        Detectron2's list of dicts, in ``DefaultPredictor``, ``inference_on_dataset`` and test-time
        augmentation. It refuses to be trained and to load other weights.

    Raises:
        ConfigError: no such model, a dtype that the device does not have in hardware, or another
            argument that cannot be followed; the model is unchanged then.
    """
    if not isinstance(model, _KINDS):
        raise ConfigError(f"optimize takes a Detectron2 model, not {_described(model)}.")
    if isinstance(model, _Optimized):
        raise ConfigError("optimize: this model is optimized already.")
    number_type = _number_type(dtype, model.device)
    if compile:
        check_compiler(model.device)
    if not in_place:
        model = copy.deepcopy(model)
    set_min_mask_score(model, min_mask_score)
    model.eval()
    take_out(Recomputed, model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    norms = fold_norms(model)
    poolers = swap_poolers(model)
    speed_up_heads(model)
    if number_type != torch.float32:
        halve(model, number_type)
    convolutions = speed_up_convolutions(model)
    model.to(memory_format=torch.channels_last)
    parts = compile_layers(model) if compile else []
    mix_in(_mixin_for(model), model)
    model.number_type = number_type
    model.compiled_parts = parts
    if parts:
        logger.info(f"optimize: torch.compile will compile {', '.join(parts)}")
    logger.info(
        f"optimize: {norms} norms folded, {convolutions} convolutions, {poolers} poolers replaced; "
        f"{str(number_type).replace('torch.', '')} on {model.device}"
    )
    return model


class _Optimized(ModuleMixin):
    """A model for inference: no gradients, images stored channels_last.

    Attributes:
        number_type: what its layers compute in.
        compiled_parts: names of the modules that torch.compile compiles when they run first.
    """

    device: torch.device
    number_type: torch.dtype
    compiled_parts: list[str]

    def train(self, mode: bool = True):
        if mode:
            raise RuntimeError(_TRAINING)
        return super().train(False)

    def load_state_dict(self, *args, **kwargs):
        raise RuntimeError(
            "load the weights before mrcnn_ext.deploy.optimize: it has folded the layers that this "
            "checkpoint is for."
        )

    def forward(self, batched_inputs: list[dict]) -> Any:
        return self._run(super().forward, batched_inputs)

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        images = super().preprocess_image(batched_inputs)  # type: ignore[misc]
        images.tensor = images.tensor.contiguous(memory_format=torch.channels_last)
        return images

    def _run(self, function, *args, **kwargs) -> Any:
        if self.training:
            raise RuntimeError(_TRAINING)
        if torch.is_inference_mode_enabled():  # the caller's, or that of the call around this one
            return self._in_number_type(function, *args, **kwargs)
        with torch.inference_mode():
            result = self._in_number_type(function, *args, **kwargs)
        return ordinary(result)

    def _in_number_type(self, function, *args, **kwargs) -> Any:
        half = self.number_type in (torch.bfloat16, torch.float16)
        if not half:
            return function(*args, **kwargs)
        with torch.autocast(self.device.type, dtype=self.number_type):
            return function(*args, **kwargs)


class _OptimizedWithInference(_Optimized):
    """One whose method ``inference`` tools call, as they do for a GeneralizedRCNN."""

    def inference(self, *args, **kwargs) -> Any:
        return self._run(super().inference, *args, **kwargs)  # type: ignore[misc]


class _OptimizedRCNN(_Optimized):
    """A GeneralizedRCNN for inference, whose masks are pasted when they are read."""

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        return self.inference(batched_inputs)

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list:
        """As GeneralizedRCNN.inference."""
        arguments = (batched_inputs, detected_instances, False)
        results = self._run(super().inference, *arguments)  # type: ignore[misc]
        if not do_postprocess:
            return results
        deferred = getattr(self, "defer_masks", True)
        return [
            {"instances": postprocess(result, inputs, defer_masks=deferred)}
            for result, inputs in zip(results, batched_inputs)
        ]


def _mixin_for(model: nn.Module) -> type:
    kind = type(model)
    if not isinstance(model, GeneralizedRCNN):
        return _Optimized
    own = [
        # What a subclass does by itself is kept.
        getattr(kind, name) not in (getattr(GeneralizedRCNN, name), getattr(MrcnnExtRCNN, name))
        for name in ("forward", "inference", "_postprocess")
    ]
    return _OptimizedWithInference if any(own) else _OptimizedRCNN


def can_optimize(model: object) -> bool:
    """Whether :func:`optimize` takes ``model``."""
    return isinstance(model, _KINDS) and not isinstance(model, _Optimized)


def _number_type(dtype: str, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        return compute_dtype(dtype, device, "dtype", more=["auto"])
    if device.type == "cuda" and not why_not(torch.bfloat16, device):
        return torch.bfloat16
    return DTYPES["float32"]


def _described(model: object) -> str:
    name = type(model).__name__
    if isinstance(model, nn.Module) and isinstance(getattr(model, "module", None), _KINDS):
        return f"{name} around one; pass its attribute 'module'"
    if hasattr(model, "keys"):
        return f"{name}; build it first, with build_model or instantiate"
    return f"{name}; expected one of {[kind.__name__ for kind in _KINDS]}"
