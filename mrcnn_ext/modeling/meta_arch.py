# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""GeneralizedRCNN that reads the run-wide keys of ``MRCNN_EXT`` and checks its input."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN

from ..config_check import check_config
from ..data.shapes import configure_builtin_shapes
from ..errors import DataError

__all__ = ["MrcnnExtRCNN", "check_training_inputs"]


@META_ARCH_REGISTRY.register()
class MrcnnExtRCNN(GeneralizedRCNN):
    """Detectron2's GeneralizedRCNN: same modules, same state_dict, same results.

    It is the one component that every run builds with the whole config before it loads data, so it
    is where ``MRCNN_EXT.SHAPES`` takes effect and where contradictions between config and data sets
    are found before anything is trained.
    """

    @configurable
    def __init__(self, *, check_inputs: bool = True, **kwargs) -> None:
        """
        Args:
            check_inputs: look at training instances while they are still on the CPU; see
                :func:`check_training_inputs`.
            kwargs: as for GeneralizedRCNN.
        """
        super().__init__(**kwargs)
        self.check_inputs = check_inputs

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
        return {**super().from_config(cfg), "check_inputs": cfg.MRCNN_EXT.CHECK_INPUTS}

    def forward(self, batched_inputs: list[dict]):
        """As GeneralizedRCNN.forward.

        Raises:
            DataError: in training, an image's ground truth is unusable.
        """
        if self.training and self.check_inputs:
            check_training_inputs(batched_inputs, getattr(self.roi_heads, "num_classes", None))
        return super().forward(batched_inputs)


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
