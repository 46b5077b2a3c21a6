# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The writers that a yaml config names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)

from ...config.check_training import check_writers
from .guarded_writer import GuardedWriter
from .mlflow_writer import MLflowWriter
from .run_writer import RunWriter
from .tensorboard_writer import TensorboardWriter
from .wandb_writer import WandbWriter

__all__ = ["build_writers"]


def build_writers(
    cfg, stock: Sequence[EventWriter], max_iter: int | None = None
) -> list[EventWriter]:
    """The writers that ``MRCNN_EXT.LOG`` asks for, in place of Detectron2's for TensorBoard.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        stock: those that the trainer has without these keys. They stay if LOG.WRITERS is empty; else
            all but the one for TensorBoard stay, and their exceptions become warnings. Console and
            metrics.json are added if they lack.
        max_iter: iterations of the training, for the console.

    Raises:
        ConfigError: a package is missing; says how to install it.
    """
    names = list(cfg.MRCNN_EXT.LOG.WRITERS)
    if not names or not comm.is_main_process():
        return list(stock)
    check_writers(names)
    ours: list[EventWriter] = [_BUILDERS[name](cfg) for name in dict.fromkeys(names)]
    kept = []
    for writer in stock:
        if isinstance(writer, TensorboardXWriter):
            writer.close()
        else:
            kept.append(writer)
    if not any(isinstance(writer, CommonMetricPrinter) for writer in kept):
        kept.insert(0, CommonMetricPrinter(max_iter))
    if not any(isinstance(writer, JSONWriter) for writer in kept):
        kept.append(JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json")))
    guarded = [w if isinstance(w, RunWriter) else GuardedWriter(w) for w in kept]
    # Ours first: others may delete the pictures.
    return [*ours, *guarded]


def _tensorboard(cfg) -> TensorboardWriter:
    return TensorboardWriter(log_dir=cfg.OUTPUT_DIR, config=cfg)


def _wandb(cfg) -> WandbWriter:
    log = cfg.MRCNN_EXT.LOG
    return WandbWriter(output_dir=cfg.OUTPUT_DIR, project=log.PROJECT, name=log.NAME, config=cfg)


def _mlflow(cfg) -> MLflowWriter:
    log = cfg.MRCNN_EXT.LOG
    return MLflowWriter(
        output_dir=cfg.OUTPUT_DIR, experiment=log.PROJECT, name=log.NAME, config=cfg
    )


_BUILDERS: dict[str, Callable[[Any], RunWriter]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
