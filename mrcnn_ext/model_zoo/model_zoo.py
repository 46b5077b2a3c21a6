# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from detectron2.config import instantiate
from detectron2.modeling import build_model

from ..checkpoint import SHIPPED, load_weights
from ..config.load import get_config_file, list_configs, load_config
from ..errors import ConfigError

__all__ = ["get", "get_config", "get_config_file", "list_configs"]


def get_config(config_path: str, trained: bool = False):
    """Load a config of this package.

    Args:
        config_path: as for :func:`get_config_file`; .yaml or .py. Also a name of
            ``mrcnn_ext.checkpoint.SHIPPED``, such as "person_pose_lite0".
        trained: take the trained weights that come with the package; few configs have some. Without
            it, weights are what the config says (usually an ImageNet backbone).

    Returns:
        a CfgNode for yaml (with Detectron2's and mrcnn_ext's keys), a DictConfig for .py.

    Raises:
        ConfigError: no such config, or no trained weights for it.
    """
    if config_path in SHIPPED:
        config_path = SHIPPED[config_path].config
    path = get_config_file(config_path)
    cfg = load_config(path)
    if trained:
        shipped = [model for model in SHIPPED.values() if model.config == config_path]
        if not shipped:
            there = ", ".join(model.config for model in SHIPPED.values())
            raise ConfigError(
                f"no trained weights come with the package for '{config_path}'; they do for {there}."
            )
        cfg.MODEL.WEIGHTS = shipped[0].uri
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None):
    """Build the model of a config of this package and load the weights it names.

    Args:
        config_path, trained: as for :func:`get_config`.
        device: overrides the config's device; a CUDA config on a machine without CUDA goes to the
            CPU.

    Returns:
        torch.nn.Module: in evaluation mode, with the weights of MODEL.WEIGHTS (yaml) or
        train.init_checkpoint (.py).
    """
    cfg = get_config(config_path, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if config_path.endswith(".py"):
        model = instantiate(cfg.model).to(device or cfg.train.device)
        weights = cfg.train.init_checkpoint
    else:
        cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
        model = build_model(cfg)
        weights = cfg.MODEL.WEIGHTS
    if weights:
        load_weights(model, weights, complete=False)
        model.checked_weights = None  # random heads on a backbone are what was asked for
    return model.eval()
