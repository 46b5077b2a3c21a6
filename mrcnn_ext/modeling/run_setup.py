# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What every META_ARCHITECTURE of this package does with the whole config, before it is built."""

from __future__ import annotations

from detectron2.modeling import ROI_MASK_HEAD_REGISTRY

from ..config.check_solver import check_given, check_sampler_name, check_schedule_name
from ..data import register_datasets
from ..data.augmentation import augmentations_from_config
from ..data.loading import check_masks_of_tests, check_when_loaded
from ..engine.running import has_detectron2s, trainer_being_built
from ..errors import ConfigError
from ..evaluation.check_keys import check_whole_config, evaluates_masks
from ..tool_hooks import extend_running_tool
from .mask_heads import MaskHeadBase

__all__ = ["set_up_run"]


def set_up_run(cfg) -> None:
    """Register the config's data sets, find its contradictions, and extend the tool that runs.

    Every run builds a model with the whole config before it loads data, and nothing else of a plugin
    is sure to see all of it.

    Raises:
        ConfigError: names the key, its value and what was expected.
        DataError: a data set cannot be used.
    """
    check_given(cfg)
    register_datasets(cfg)
    trainer = trainer_being_built()
    training = trainer is not None
    check_whole_config(cfg, training=training)
    boxes_only = cfg.MRCNN_EXT.DATA.BOXES_ONLY
    if has_detectron2s(trainer, "build_train_loader"):
        check_sampler_name(cfg)
    if has_detectron2s(trainer, "build_lr_scheduler"):
        check_schedule_name(cfg)
    if training:
        augmentations_from_config(cfg)  # which is where their names and arguments are checked
        if boxes_only and cfg.MODEL.MASK_ON:
            _check_takes_boxes_only(cfg.MODEL.ROI_MASK_HEAD.NAME)
        if not boxes_only and evaluates_masks(cfg):
            check_masks_of_tests(cfg.DATASETS.TEST)
    check_when_loaded(
        cfg.DATASETS.TRAIN,
        with_masks=cfg.MODEL.MASK_ON and not boxes_only,
        # Of several, one may be of backgrounds.
        need_objects=len(cfg.DATASETS.TRAIN) == 1 and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    )
    check_when_loaded(
        [name for name in cfg.DATASETS.TEST if name not in cfg.DATASETS.TRAIN],
        with_masks=False,
    )
    extend_running_tool(cfg)


def _check_takes_boxes_only(name: str) -> None:
    head = ROI_MASK_HEAD_REGISTRY.get(name) if name in ROI_MASK_HEAD_REGISTRY else None
    if not (isinstance(head, type) and issubclass(head, MaskHeadBase)):
        raise ConfigError(
            f"MRCNN_EXT.DATA.BOXES_ONLY is True, but MODEL.ROI_MASK_HEAD.NAME is '{name}', which would "
            "learn empty masks of objects that have a box only; expected a mask head of this package, "
            "such as 'MrcnnExtFCNMaskHead'."
        )
