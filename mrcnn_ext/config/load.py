# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Load configs: yaml, LazyConfig, and those of this package by their names."""

from __future__ import annotations

import os

from detectron2.config import CfgNode, LazyConfig, get_cfg

from ..errors import ConfigError, DataError, WeightsError
from ..messages import similar
from ..paths import configs_folder
from .defaults import add_mrcnn_ext_config
from .safe_yaml import check_yaml

__all__ = ["default_config", "find_config", "get_config_file", "list_configs", "load_config"]


_LONGEST = 400  # characters of a message


def default_config() -> CfgNode:
    """Detectron2's default config with the node ``MRCNN_EXT``."""
    cfg = get_cfg()
    add_mrcnn_ext_config(cfg)
    return cfg


def load_config(
    config_file: str | os.PathLike, overrides: list[str] | None = None, *, found: bool = False
):
    """Load a yaml or LazyConfig file, or a config of this package by its name.

    Args:
        config_file: path, or a name as :func:`get_config_file` takes it.
        overrides: ``["KEY", "VALUE", …]`` for yaml, ``["key=value", …]`` for LazyConfig.
        found: the file was found in a folder of results or named by one, not by the user. A
            LazyConfig, which is a program, is then refused.

    Returns:
        a CfgNode for yaml (with Detectron2's and mrcnn_ext's keys), a DictConfig for .py.

    Raises:
        ConfigError: the file cannot be loaded, would run code (a LazyConfig that was ``found``, a yaml
            tag), or an override does not fit; names the file.
    """
    path = os.fspath(config_file)
    if found and not path.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"{path}: is no yaml config, but may be a program; it was found, not named by you, so it "
            "is not run."
        )
    where = path = find_config(path)
    try:
        if path.endswith(".py"):
            lazy = LazyConfig.load(path)
            where = f"overrides of {path}"
            return LazyConfig.apply_overrides(lazy, overrides or [])
        check_yaml(path)
        cfg = default_config()
        cfg.merge_from_file(path, allow_unsafe=False)
        where = f"overrides of {path}"
        cfg.merge_from_list(overrides or [])
    except (ConfigError, DataError, WeightsError):
        raise  # says what is wrong already
    except Exception as error:  # a LazyConfig is a program, which can raise anything
        raise ConfigError(f"{where}: {_describe(error)}") from error
    return cfg


def find_config(config_file: str | os.PathLike) -> str:
    """Path of a config file, or of a config of this package by its name.

    Raises:
        ConfigError: there is none, or it is no file.
    """
    path = os.fspath(config_file)
    if os.path.isfile(path):
        return path
    if os.path.exists(path):
        raise ConfigError(f"{path}: is no file, but a folder, pipe or device.")
    try:
        return get_config_file(path)
    except ConfigError as error:
        there = _in_detectron2(path)
        raise ConfigError(f"there is no file '{path}', and {error}{there}") from error


def _in_detectron2(name: str) -> str:
    """Where Detectron2's own zoo has a config of this name; empty if it has none."""
    from detectron2 import model_zoo  # imports all models, which only this message needs

    try:
        return f" Detectron2 has it: {model_zoo.get_config_file(name)}."
    except Exception:  # a RuntimeError where it lacks the name; OSErrors for odd names
        return ""


def _describe(error: Exception) -> str:
    text = str(error.args[0]) if error.args else ""
    # yacs's own messages are sentences; others say little without their type.
    is_sentence = isinstance(error, (AssertionError, KeyError, ValueError)) and " " in text
    text = text if is_sentence else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())  # yaml shows the place in lines of its own, yacs whole sections
    if isinstance(error, TypeError) and "NoneType" in text:
        text += " (is a section empty?)"
    if "(<class 'float'> vs. <class 'int'>)" in text:
        text += " (write 1.0, not 1)"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def list_configs() -> list[str]:
    """Names of all configs of this package that train a model."""
    root = configs_folder()
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
    path = configs_folder() / config_path
    if not os.path.isfile(path):  # Path.is_file raises for names that are too long
        near = similar(config_path, list_configs(), likeness=0.4)
        raise ConfigError(
            f"mrcnn_ext has no config '{config_path}'"
            + (f"; similar ones: {', '.join(near)}." if near else ".")
        )
    return str(path)
