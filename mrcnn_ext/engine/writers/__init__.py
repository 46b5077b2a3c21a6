# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Writers of a training's log: TensorBoard, Weights & Biases, MLflow."""

from .build import build_writers
from .guarded_writer import GuardedWriter
from .mlflow_writer import MLflowWriter
from .run_facts import git_state
from .run_writer import RunWriter
from .tensorboard_writer import TensorboardWriter
from .wandb_writer import WandbWriter

__all__ = [
    "GuardedWriter",
    "MLflowWriter",
    "RunWriter",
    "TensorboardWriter",
    "WandbWriter",
    "build_writers",
    "git_state",
]
