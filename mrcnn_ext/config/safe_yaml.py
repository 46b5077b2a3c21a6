# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Check that yaml configs hold plain values only, before Detectron2 reads them.

Detectron2 runs Python that stands in a yaml file as a tag, such as ``!!python/object/apply:os.system``.
"""

from __future__ import annotations

import itertools
import os

import yaml
from detectron2.utils.file_io import PathManager

from ..errors import ConfigError

__all__ = ["check_yaml", "read_yaml"]

_BASE = "_BASE_"
_MOST_BYTES = 2**16  # Detectron2's own whole config has 20 KB
_DEEPEST = 100
_MOST_VALUES = 10**5  # with what aliases repeat
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_PLAIN = set(yaml.SafeLoader.yaml_constructors) - {None} | {_MERGE}


def check_yaml(path: str, parents: tuple[str, ...] = ()) -> None:
    """Check a yaml config and the files that its ``_BASE_`` names.

    Args:
        path: file, or whatever Detectron2's PathManager opens.
        parents: files whose ``_BASE_`` led here.

    Raises:
        ConfigError: a tag that would run code, or a file that is no config, for its size or form;
            names the file and line.
    """
    if path in parents:
        raise ConfigError(f"{parents[0]}: the files of its _BASE_ name each other: {path}.")
    root = yaml.compose(_text(path), yaml.SafeLoader)
    number = 0 if root is None else _count(root, path, {})
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: is no yaml config; expected KEY: VALUE lines.")
    if number > _MOST_VALUES:
        raise ConfigError(f"{path}: its aliases repeat values {number} times; no config does that.")
    _check_keys(root, path)
    for key, value in root.value:
        if key.value == _BASE:
            names = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for name in names:
                if name.tag != _TEXT or not name.value:
                    raise ConfigError(
                        f"{path}: {_BASE} is not the name of a file, or a list of them."
                    )
                base = _base_path(path, name.value)
                try:
                    check_yaml(base, (*parents, path))
                except OSError as error:
                    reason = error.strerror or error
                    raise ConfigError(f"{path}: its {_BASE} {base}: {reason}.") from error


def read_yaml(path: str) -> dict:
    """The content of a yaml file of plain values that is no config, such as a list of class names.

    Raises:
        ConfigError: it cannot be read, or holds anything else; names the file.
    """
    try:
        text = _text(path)
        root = yaml.compose(text, yaml.SafeLoader)
        number = 0 if root is None else _count(root, path, {})
        content = yaml.safe_load(text) if number <= _MOST_VALUES else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a yaml file of KEY: VALUE lines.")
    return content


def _check_keys(node: yaml.MappingNode, path: str) -> None:
    """Keys are texts, and each is there once: of two, yaml drops the first without a word."""
    seen: set[str] = set()
    for key, value in node.value:
        place = f"{path}, line {key.start_mark.line + 1}"
        if key.tag not in (_TEXT, _MERGE):
            raise ConfigError(f"{place}: a key is {str(key.value)!r:.60}, expected a text.")
        if key.value in seen:
            raise ConfigError(f"{place}: {key.value} is there twice; one of them would be lost.")
        seen.add(key.value)
        if isinstance(value, yaml.MappingNode):
            _check_keys(value, path)


def _text(path: str) -> str:
    local = os.path.lexists(path)
    if local and os.path.exists(path) and not os.path.isfile(path):  # a pipe or device never ends
        raise ConfigError(f"{path}: is no file.")
    with PathManager.open(path, "r") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ConfigError(f"{path}: is no config: longer than {_MOST_BYTES} characters.")
    depth = itertools.accumulate((c in "[{") - (c in "]}") for c in text)
    if max(depth, default=0) > _DEEPEST:  # takes yaml time in proportion to the square
        raise ConfigError(f"{path}: is no config: more than {_DEEPEST} brackets in each other.")
    return text


def _count(node: yaml.Node, path: str, seen: dict[int, int]) -> int:
    """Number of values below a node, each alias counted as what it stands for."""
    if node.tag not in _PLAIN:
        raise ConfigError(
            f"{path}, line {node.start_mark.line + 1}: the tag {node.tag!r:.80} is not read, since it "
            "can run code; expected plain values. Write such a config as a LazyConfig (.py)."
        )
    if id(node) in seen:
        if seen[id(node)] < 0:
            raise ConfigError(f"{path}: an alias stands for a part of itself.")
        return seen[id(node)]
    seen[id(node)] = -1
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    seen[id(node)] = 1 + sum(_count(child, path, seen) for child in children)
    return seen[id(node)]


def _base_path(path: str, base: str) -> str:
    """Where Detectron2 looks for it."""
    base = os.path.expanduser(base) if base.startswith("~") else base
    if base.startswith(("/", "https://", "http://")):
        return base
    return os.path.join(os.path.dirname(path), base)
