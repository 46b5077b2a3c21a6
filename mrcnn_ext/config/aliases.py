# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Config keys that were renamed: the old name still works."""

from __future__ import annotations

from ..errors import ConfigError

__all__ = ["first_set"]


def first_set(cfg, key: str, old_key: str) -> tuple[str, list[str]]:
    """The names that ``key`` holds, or ``old_key`` if ``key`` is not set.

    Args:
        cfg: a config.
        key, old_key: full keys. Each holds a list of names, or one name as text; an empty list or
            text is not set.

    Returns:
        the key that is set (``key`` if none is) and a new list of its names.

    Raises:
        ConfigError: both are set, to different names; names both.
    """
    names, old_names = _names(cfg, key), _names(cfg, old_key)
    if names and old_names and names != old_names:
        raise ConfigError(
            f"{key} is {names}, but {old_key}, its old name, is {old_names}; set {key} alone."
        )
    return (old_key, old_names) if old_names and not names else (key, names)


def _names(node, key: str) -> list[str]:
    for part in key.split("."):
        node = node[part]
    return [node] if isinstance(node, str) and node else list(node)
