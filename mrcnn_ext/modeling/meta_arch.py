# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""GeneralizedRCNN that applies the run-wide keys of ``MRCNN_EXT`` and checks its input."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Dict, List, Optional  # noqa: UP035  (TorchScript knows no other names)

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, detector_postprocess
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

from ..checkpoint import CheckedWeights, check_complete, compare_weights, describe_new
from ..errors import DataError
from ..structures import DeferredMaskInstances, DeferredMasks
from .compute import autocast_for, check_autocast, float32_results, recompute_backbone
from .mask_heads import MaskHeadBase
from .run_setup import set_up_run
from .scripting import inherited

__all__ = ["MrcnnExtRCNN", "check_training_inputs", "postprocess"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


@META_ARCH_REGISTRY.register()
class MrcnnExtRCNN(GeneralizedRCNN):
    """Detectron2's GeneralizedRCNN: same modules, same state_dict, same results.

    Every run builds this component with the whole config before it loads data. So the config's data
    sets are registered here, and contradictions between config and data sets are found before
    training.
    """

    @configurable
    def __init__(
        self,
        *,
        check_inputs: bool = True,
        defer_masks: bool = True,
        from_yaml: bool = False,
        channels_last: bool = False,
        autocast: str = "",
        checkpoint_backbone: bool = False,
        **kwargs,
    ) -> None:
        """
        Args:
            check_inputs: check training instances while they are on the CPU; see
                :func:`check_training_inputs`.
            defer_masks: return DeferredMaskInstances, whose masks are pasted into the image when
                they are read.
            from_yaml: messages name yaml keys; else arguments of the model, as a LazyConfig has them.
            channels_last: store weights, and with them all maps, as (N, H, W, C).
            autocast: "bfloat16" for layers that compute in it in training; losses and boxes stay
                float32.
            checkpoint_backbone: keep the inputs of the backbone's blocks only, and compute their
                activations again in the backward pass.
            kwargs: as for GeneralizedRCNN.

        Raises:
            ConfigError: an unknown dtype, or a backbone without blocks that are known.
        """
        super().__init__(**kwargs)
        self.check_inputs = check_inputs
        self.defer_masks = defer_masks
        self._terms = YAML_TERMS if from_yaml else MODEL_TERMS
        node = "MRCNN_EXT.COMPUTE." if from_yaml else "model."
        self._autocast_dtype, self._autocast_setting = autocast, _setting(node, "autocast")
        if autocast:
            check_autocast(autocast, self._autocast_setting)
            float32_results(self)
        if checkpoint_backbone:
            recompute_backbone(self.backbone, _setting(node, "checkpoint_backbone"))
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.checked_weights: Optional[CheckedWeights] = None  # noqa: UP045

    @classmethod
    def from_config(cls, cfg) -> dict:
        set_up_run(cfg)
        return {
            **super().from_config(cfg),
            "check_inputs": cfg.MRCNN_EXT.CHECK_INPUTS,
            "defer_masks": cfg.MRCNN_EXT.DEFER_MASKS,
            "from_yaml": True,
            "channels_last": cfg.MRCNN_EXT.COMPUTE.CHANNELS_LAST,
            "autocast": cfg.MRCNN_EXT.COMPUTE.AUTOCAST,
            "checkpoint_backbone": cfg.MRCNN_EXT.COMPUTE.CHECKPOINT_BACKBONE,
        }

    def load_state_dict(self, *args, **kwargs):
        """As nn.Module's; inference refuses a model that a checkpoint left incomplete or NaN."""
        earlier = self.checked_weights
        result = super().load_state_dict(*args, **kwargs)
        missing = set(result.missing_keys)
        if earlier is not None:  # parts from several files
            missing &= set(earlier.missing)
        self.checked_weights = compare_weights(self, missing, unused=result.unexpected_keys)
        return result

    _stock_forward = inherited(GeneralizedRCNN.forward, "_stock_forward")
    _stock_inference = inherited(GeneralizedRCNN.inference, "_stock_inference")

    def forward(self, batched_inputs: List[Dict[str, torch.Tensor]]):  # noqa: UP006
        """As GeneralizedRCNN.forward.

        Raises:
            DataError: in training, an image's ground truth is unusable.
        """
        if not torch.jit.is_scripting() and self.training:
            if self.checked_weights is not None:
                _say_what_is_new(self.checked_weights)
                self.checked_weights = None  # fine-tuning: what was missing is trained now
            if self.check_inputs:
                _check_batch(batched_inputs, self.roi_heads, self._terms)
            if self._autocast_dtype:
                with autocast_for(self._autocast_dtype, self.device, self._autocast_setting):
                    return self._stock_forward(batched_inputs)
        return self._stock_forward(batched_inputs)

    def inference(
        self,
        batched_inputs: List[Dict[str, torch.Tensor]],  # noqa: UP006
        detected_instances: Optional[List[Instances]] = None,  # noqa: UP006, UP045
        do_postprocess: bool = True,
    ):
        """As GeneralizedRCNN.inference; the post-processed masks are deferred.

        Raises:
            WeightsError: a checkpoint was loaded that lacks a part of the model or is NaN, and the
                model was not trained since.
        """
        if torch.jit.is_scripting():
            return self._stock_inference(batched_inputs, detected_instances, do_postprocess)
        if self.checked_weights is not None:
            check_complete(self.checked_weights, "the checkpoint (MODEL.WEIGHTS)")
        if not (do_postprocess and self.defer_masks) or torch.jit.is_tracing():
            return self._stock_inference(batched_inputs, detected_instances, do_postprocess)
        results = self._stock_inference(batched_inputs, detected_instances, False)
        return [
            {"instances": postprocess(result, inputs)}
            for result, inputs in zip(results, batched_inputs)
        ]


def _setting(node: str, name: str) -> str:
    """What a message calls an argument: as yaml or a LazyConfig has it."""
    return node + (name if node == "model." else name.upper())


_SMALL_MASKS = "mrcnn_ext_small_masks"


def _say_what_is_new(checked: CheckedWeights) -> None:
    try:
        start = get_event_storage().iter
    except AssertionError:  # a step outside of a trainer
        start = 0
    text = describe_new(checked, start)
    if text:
        logger.log(logging.WARNING if start else logging.INFO, text)


def postprocess(results: Instances, inputs: dict, *, defer_masks: bool = True) -> Instances:
    """Detectron2's detector_postprocess, with this package's pasting of masks.

    Args:
        results: of one image, as ``GeneralizedRCNN.inference(…, do_postprocess=False)`` gives them.
        inputs: of that image; the result is for its "height" and "width".
        defer_masks: paste masks when they are read; False: at once.
    """
    default_height, default_width = inputs["image"].shape[-2:]
    size = (inputs.get("height", default_height), inputs.get("width", default_width))
    if not results.has("pred_masks"):
        return detector_postprocess(results, *size)
    # Under another name, masks are only filtered with their boxes, not pasted.
    fields = {_SMALL_MASKS if k == "pred_masks" else k: v for k, v in results.get_fields().items()}
    fields[_SMALL_MASKS] = getattr(fields[_SMALL_MASKS], "tensor", fields[_SMALL_MASKS])
    processed = detector_postprocess(Instances(results.image_size, **fields), *size)
    final = DeferredMaskInstances(processed.image_size)
    for name, value in processed.get_fields().items():
        if name == _SMALL_MASKS:
            name = "pred_masks"
            value = DeferredMasks(value, processed.pred_boxes.tensor, processed.image_size)
        final.set(name, value)
    if not defer_masks:
        return Instances(final.image_size, **final.get_fields())
    return final


# What messages call the settings that a field of the ground truth depends on.
YAML_TERMS = {
    "num_classes": "MODEL.ROI_HEADS.NUM_CLASSES",
    "gt_masks": "MODEL.MASK_ON is True",
    "gt_keypoints": "MODEL.KEYPOINT_ON is True",
}
MODEL_TERMS = {
    "num_classes": "model.roi_heads.num_classes",
    "gt_masks": "model.roi_heads has a mask_head, and dataloader.train.mapper use_instance_mask",
    "gt_keypoints": "model.roi_heads has a keypoint_head, and dataloader.train.mapper use_keypoint",
}
_JSON_KEYS = {"gt_masks": "segmentation", "gt_keypoints": "keypoints"}


def _check_batch(
    batched_inputs: list[dict], roi_heads: torch.nn.Module, terms: Mapping[str, str]
) -> None:
    """:func:`check_training_inputs` for what the RoI heads need."""
    kinds = [kind for kind in ("mask", "keypoint") if getattr(roi_heads, f"{kind}_on", False)]
    classes = getattr(roi_heads, "num_classes", None)
    check_training_inputs(batched_inputs, classes, [f"gt_{kind}s" for kind in kinds], terms)
    if "mask" in kinds:
        _check_boxes_only(batched_inputs, roi_heads)


def _check_boxes_only(batched_inputs: list[dict], roi_heads: torch.nn.Module) -> None:
    """
    Raises:
        DataError: an object has no mask, and the mask head would learn that it is empty.
    """
    head = getattr(roi_heads, "mask_head", None)
    if isinstance(head, MaskHeadBase):
        return
    for inputs in batched_inputs:
        instances = inputs["instances"]
        if not instances.has("gt_has_mask") or instances.gt_has_mask.device.type != "cpu":
            continue
        without = int((~instances.gt_has_mask).sum())
        if without:
            raise DataError(
                f"{_describe(inputs)}: {without} of its {len(instances)} objects have a box only, from "
                f"which {type(head).__name__} cannot learn; expected a mask head of this package, such "
                'as MODEL.ROI_MASK_HEAD.NAME "MrcnnExtFCNMaskHead".'
            )


def check_training_inputs(
    batched_inputs: list[dict],
    num_classes: int | None,
    fields: Sequence[str] = (),
    terms: Mapping[str, str] = YAML_TERMS,
) -> None:
    """Check boxes, classes and fields of a batch from the data loader.

    Instances on a GPU are not checked for values: that would wait for the device.

    Args:
        batched_inputs: Detectron2's list of dicts, with "instances".
        num_classes: classes of the RoI heads; None skips the check of classes.
        fields: which instances must have, where there are any: "gt_masks", "gt_keypoints".
        terms: what messages call the settings behind "num_classes" and the fields.

    Raises:
        DataError: there is no ground truth, a field is missing, a box is not finite or a class is out
            of range; names the image's file and id.
    """
    for inputs in batched_inputs:
        instances = inputs.get("instances")
        if instances is None:
            raise DataError(f"{_describe(inputs)}: no 'instances', which training needs.")
        for name in fields:
            if len(instances) and not instances.has(name):
                raise DataError(
                    f"{_describe(inputs)}: its {len(instances)} instances have no '{name}', that is, "
                    f"the first annotation has no '{_JSON_KEYS.get(name, name)}', but {terms[name]}. "
                    "python -m mrcnn_ext.data.check finds all such annotations."
                )
        _check_values(inputs, instances, num_classes, terms)


def _check_values(
    inputs: dict, instances: Instances, num_classes: int | None, terms: Mapping[str, str]
) -> None:
    boxes = instances.gt_boxes.tensor
    if boxes.device.type != "cpu":
        return
    finite = torch.isfinite(boxes).all(dim=1)
    if not bool(finite.all()):
        index = int((~finite).nonzero()[0])
        raise DataError(
            f"{_describe(inputs)}: ground-truth box {index} is {boxes[index].tolist()}, expected "
            "four finite numbers. python -m mrcnn_ext.data.check finds all such boxes."
        )
    classes = instances.gt_classes
    if num_classes is None or classes.numel() == 0:
        return
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"{_describe(inputs)}: ground-truth class {low if low < 0 else high} is outside "
            f"0 … {num_classes - 1}; set {terms['num_classes']} to the number of classes of the data "
            "set."
        )


def _describe(inputs: dict) -> str:
    return f"image {inputs.get('file_name', '(no file_name)')} (id {inputs.get('image_id', '?')})"
