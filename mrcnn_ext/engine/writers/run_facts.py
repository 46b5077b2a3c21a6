# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What a log says about a run besides its numbers: the config, and the state of the code."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, LazyConfig
from omegaconf import DictConfig, OmegaConf

__all__ = ["config_text", "config_values", "flat_values", "git_state", "saved_config", "stored_run"]

_GIT_SECONDS = 10  # a repository on a slow network drive must not hold up training


def config_text(config: CfgNode | DictConfig | Mapping | str | None) -> str:
    """The whole config as text: yaml, or of a LazyConfig the Python that Detectron2 writes of it.

    Args:
        config: Detectron2's CfgNode, a LazyConfig, any mapping, or the text itself. None: "".
    """
    if config is None or isinstance(config, str):
        return config or ""
    if isinstance(config, CfgNode):
        return config.dump()
    if isinstance(config, DictConfig):
        try:
            return LazyConfig.to_py(config)
        except Exception:  # of a formatter, for objects whose text is no Python
            pass
    return yaml.safe_dump(config_values(config), sort_keys=True)


def saved_config(folder: str | os.PathLike) -> str | None:
    """The config that Detectron2's ``default_setup`` writes to the folder of a training."""
    try:
        return Path(folder, "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def stored_run(file: str | os.PathLike, key: str) -> str:
    """The id of a run that a writer left in a json file; "" if there is none."""
    try:
        return str(json.loads(Path(file).read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def config_values(config: CfgNode | DictConfig | Mapping | str | None) -> dict[str, Any]:
    """The config as nested dicts of numbers, texts, lists and None; other objects by their text.

    A text that is no yaml gives none.
    """
    if isinstance(config, str):
        try:
            config = yaml.safe_load(config)
        except yaml.YAMLError:
            config = None
    if not isinstance(config, Mapping) and not isinstance(config, DictConfig):
        return {}
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return _plain(config)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, type) or callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', value)}"
    return str(value)


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with names such as "SOLVER.BASE_LR"."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flat_values(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def git_state(folder: str | os.PathLike = ".") -> dict[str, Any] | None:
    """Commit of the checkout that ``folder`` is in, and whether tracked files were changed since.

    Returns:
        {"commit": 40 hexadecimal digits, "dirty": bool}; None without git, checkout or commit.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: str | os.PathLike, *arguments: str) -> str | None:
    # A repository's own settings may name programs: this one asks for the state only.
    command = ["git", "-c", "core.fsmonitor=false", "-C", os.fspath(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
