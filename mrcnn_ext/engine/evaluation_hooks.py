# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The hooks that ``MRCNN_EXT.EVALUATION`` asks for."""

from __future__ import annotations

import functools
import logging

from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

from ..errors import ConfigError
from .best_checkpoint import BestCheckpointer
from .validation_loss import ValidationLossHook, build_validation_loader

__all__ = ["build_evaluation_hooks", "warn_of_keys_in_vain"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


def build_evaluation_hooks(trainer: DefaultTrainer) -> list:
    """The hooks that ``MRCNN_EXT.EVALUATION`` names, to run after EvalHook.

    Args:
        trainer: with "cfg", "model" and "checkpointer".

    Raises:
        ConfigError: BEST_MODE is neither "max" nor "min".
    """
    cfg = trainer.cfg
    keys = cfg.MRCNN_EXT.EVALUATION
    hooks: list = []
    if keys.VALIDATION_LOSS and not cfg.DATASETS.TEST and comm.is_main_process():
        logger.warning(
            "MRCNN_EXT.EVALUATION.VALIDATION_LOSS is True, but DATASETS.TEST is empty: there is no "
            "validation loss."
        )
    if keys.BEST_METRIC and not cfg.DATASETS.TEST and comm.is_main_process():
        logger.warning(
            f"MRCNN_EXT.EVALUATION.BEST_METRIC is '{keys.BEST_METRIC}', but DATASETS.TEST is empty: "
            "no checkpoint is the best."
        )
    if keys.VALIDATION_LOSS and cfg.DATASETS.TEST:
        hooks.append(
            ValidationLossHook(
                cfg.TEST.EVAL_PERIOD,
                trainer.model,
                functools.partial(build_validation_loader, cfg, tuple(cfg.DATASETS.TEST)),
            )
        )
    if keys.BEST_METRIC:
        if keys.BEST_MODE not in ("max", "min"):
            raise ConfigError(
                f"MRCNN_EXT.EVALUATION.BEST_MODE is '{keys.BEST_MODE}'; expected 'max' or 'min'."
            )
        if comm.is_main_process():  # the results are there alone
            hooks.append(
                BestCheckpointer(
                    cfg.TEST.EVAL_PERIOD, trainer.checkpointer, keys.BEST_METRIC, keys.BEST_MODE
                )
            )
    return hooks


def warn_of_keys_in_vain(cfg) -> None:
    """Say which keys ask for a hook that ``MRCNN_EXT.EVALUATION.ENABLED: False`` leaves out."""
    keys = cfg.MRCNN_EXT.EVALUATION
    if keys.ENABLED or not comm.is_main_process():
        return
    for name in ("BEST_METRIC", "VALIDATION_LOSS"):
        if keys[name]:
            logger.warning(
                f"MRCNN_EXT.EVALUATION.{name} is {keys[name]!r}, which does nothing while "
                "MRCNN_EXT.EVALUATION.ENABLED is False; expected True."
            )
