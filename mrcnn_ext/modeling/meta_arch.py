# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""GeneralizedRCNN that reads the run-wide keys of ``MRCNN_EXT`` and checks its input."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances

from ..config_check import check_config
from ..data.shapes import configure_builtin_shapes
from ..errors import DataError
from ..structures import DeferredMaskInstances, DeferredMasks

__all__ = ["MrcnnExtRCNN", "check_training_inputs"]

_RENAMED = {"pred_masks": "roi_masks"}


@META_ARCH_REGISTRY.register()
class MrcnnExtRCNN(GeneralizedRCNN):
    """Detectron2's GeneralizedRCNN: same modules, same state_dict, same results.

    It is the one component that every run builds with the whole config before it loads data, so it
    is where ``MRCNN_EXT.SHAPES`` takes effect and where contradictions between config and data sets
    are found before anything is trained.
    """

    @configurable
    def __init__(self, *, check_inputs: bool = True, defer_masks: bool = True, **kwargs) -> None:
        """
        Args:
            check_inputs: look at training instances while they are still on the CPU; see
                :func:`check_training_inputs`.
            defer_masks: results are DeferredMaskInstances, whose masks become dense when they are read.
            kwargs: as for GeneralizedRCNN.
        """
        super().__init__(**kwargs)
        self.check_inputs = check_inputs
        self.defer_masks = defer_masks

    @classmethod
    def from_config(cls, cfg) -> dict:
        shapes = cfg.MRCNN_EXT.SHAPES
        configure_builtin_shapes(
            num_train=shapes.NUM_TRAIN,
            num_val=shapes.NUM_VAL,
            image_size=shapes.IMAGE_SIZE,
            seed=shapes.SEED,
        )
        check_config(cfg)
        if cfg.MRCNN_EXT.EVALUATION.ENABLED:
            from ..evaluation.tool_hooks import add_evaluation_to_tool

            add_evaluation_to_tool()
        return {
            **super().from_config(cfg),
            "check_inputs": cfg.MRCNN_EXT.CHECK_INPUTS,
            "defer_masks": cfg.MRCNN_EXT.DEFER_MASKS,
        }

    def forward(self, batched_inputs: list[dict]):
        """As GeneralizedRCNN.forward.

        Raises:
            DataError: in training, an image's ground truth is unusable.
        """
        if self.training and self.check_inputs:
            check_training_inputs(batched_inputs, getattr(self.roi_heads, "num_classes", None))
        return super().forward(batched_inputs)

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ):
        """As GeneralizedRCNN.inference; post-processed results are DeferredMaskInstances."""
        if not (do_postprocess and self.defer_masks) or torch.jit.is_tracing():
            return super().inference(batched_inputs, detected_instances, do_postprocess)
        results = super().inference(batched_inputs, detected_instances, do_postprocess=False)
        return [
            {"instances": _postprocess(item, inputs)}
            for item, inputs in zip(results, batched_inputs)
        ]


def _postprocess(results: Instances, inputs: dict) -> Instances:
    """Detectron2's ``detector_postprocess``, which gets everything but the masks."""
    height = inputs.get("height", results.image_size[0])
    width = inputs.get("width", results.image_size[1])
    if not results.has("pred_masks"):
        return detector_postprocess(results, height, width)
    # Under another name it leaves them alone, and drops those of empty boxes.
    fields = {_RENAMED.get(name, name): value for name, value in results.get_fields().items()}
    processed = detector_postprocess(Instances(results.image_size, **fields), height, width)
    final = DeferredMaskInstances((height, width))
    for name, value in processed.get_fields().items():
        if name == _RENAMED["pred_masks"]:
            boxes = processed.pred_boxes.tensor
            final.pred_masks = DeferredMasks(value, boxes, (height, width))
        else:
            final.set(name, value)
    return final


def check_training_inputs(batched_inputs: list[dict], num_classes: int | None) -> None:
    """Check boxes and classes of a batch as the data loader hands it over.

    Instances that are on a GPU already are left alone: looking at them would wait for the device.

    Args:
        batched_inputs: Detectron2's list of dicts, with "instances".
        num_classes: classes of the RoI heads; None leaves classes unchecked.

    Raises:
        DataError: no ground truth, a box that is not finite, or a class out of range; names the
            image's file and id.
    """
    for inputs in batched_inputs:
        instances = inputs.get("instances")
        if instances is None:
            raise DataError(f"{_describe(inputs)}: no 'instances', which training needs.")
        boxes = instances.gt_boxes.tensor
        if boxes.device.type != "cpu":
            continue
        finite = torch.isfinite(boxes).all(dim=1)
        if not bool(finite.all()):
            index = int((~finite).nonzero()[0])
            raise DataError(
                f"{_describe(inputs)}: ground-truth box {index} is {boxes[index].tolist()}, expected "
                "four finite numbers. python -m mrcnn_ext.data.check finds all such boxes."
            )
        classes = instances.gt_classes
        if num_classes is None or classes.numel() == 0:
            continue
        low, high = int(classes.min()), int(classes.max())
        if low < 0 or high >= num_classes:
            raise DataError(
                f"{_describe(inputs)}: ground-truth class {low if low < 0 else high} is outside "
                f"0 … {num_classes - 1}; set MODEL.ROI_HEADS.NUM_CLASSES to the number of classes of "
                "the data set."
            )


def _describe(inputs: dict) -> str:
    return f"image {inputs.get('file_name', '(no file_name)')} (id {inputs.get('image_id', '?')})"
