# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import difflib
from pathlib import Path

from detectron2.config import LazyConfig, get_cfg, instantiate

from ..config.defaults import add_mrcnn_ext_config
from ..errors import ConfigError

__all__ = ["get", "get_config", "get_config_file", "list_configs"]


def _configs_folder() -> Path:
    # Inside the package when installed from a wheel, at the top of a checkout otherwise.
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def list_configs() -> list[str]:
    """Names of all configs that train a model, as the other functions take them."""
    root = _configs_folder()
    names = (
        p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix in (".yaml", ".py")
    )
    return sorted(n for n in names if "/" in n and not n.startswith("common/"))


def get_config_file(config_path: str) -> str:
    """Path of a config of this package.

    Args:
        config_path: name relative to ``configs/``, e.g.
            "COCO-InstanceSegmentation/mask_rcnn_Lite0_FPN_1x.yaml".

    Raises:
        ConfigError: there is no such config; names similar ones.
    """
    path = _configs_folder() / config_path
    if not path.is_file():
        near = difflib.get_close_matches(config_path, list_configs(), n=4, cutoff=0.4)
        raise ConfigError(
            f"mrcnn_ext has no config '{config_path}'"
            + (f"; similar ones: {', '.join(near)}." if near else ".")
        )
    return str(path)


def get_config(config_path: str, trained: bool = False):
    """Load a config of this package.

    Args:
        config_path: as for :func:`get_config_file`; .yaml or .py.
        trained: ask for trained weights. No checkpoints are published yet, so this raises; without
            it, weights are what the config says (usually an ImageNet backbone).

    Returns:
        a CfgNode for yaml (with Detectron2's and mrcnn_ext's keys), a DictConfig for .py.

    Raises:
        ConfigError: no such config, or no trained weights for it.
    """
    path = get_config_file(config_path)
    if trained:
        raise ConfigError(f"no trained weights are published for '{config_path}'.")
    if path.endswith(".py"):
        return LazyConfig.load(path)
    cfg = get_cfg()
    add_mrcnn_ext_config(cfg)
    cfg.merge_from_file(path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None):
    """Build the model of a config of this package and load the weights it names.

    Args:
        config_path: as for :func:`get_config_file`.
        trained: as for :func:`get_config`.
        device: overrides the config's device; a CUDA config on a machine without CUDA goes to the
            CPU.

    Returns:
        torch.nn.Module: in evaluation mode, with the weights of MODEL.WEIGHTS (yaml) or
        train.init_checkpoint (.py).
    """
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

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
        DetectionCheckpointer(model).load(weights)
    return model.eval()
