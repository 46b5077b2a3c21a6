# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoint codecs by name, as ``MRCNN_EXT.KEYPOINT_HEAD.CODEC`` selects them."""

from __future__ import annotations

from typing import Any

from fvcore.common.registry import Registry

from ...errors import ConfigError
from .base import KeypointCodec

__all__ = ["KEYPOINT_CODEC_REGISTRY", "build_keypoint_codec", "codec_names"]

_KEY = "MRCNN_EXT.KEYPOINT_HEAD.CODEC"
_ALIASES = {"rle": "residual_likelihood"}


class _CodecRegistry(Registry):
    def _do_register(self, name: str, obj: Any) -> None:
        # A subclass does not take its parent's name.
        super()._do_register(vars(obj).get("name") or name, obj)


KEYPOINT_CODEC_REGISTRY = _CodecRegistry("KEYPOINT_CODEC")
KEYPOINT_CODEC_REGISTRY.__doc__ = """
Keypoint codecs, under their class attribute ``name`` or, without one, the name of the class.

A registered codec is called with the config, so it needs a ``from_config`` (KeypointCodec has one) and
``@configurable`` above an ``__init__`` of its own.
"""


def codec_names(kind: str) -> tuple[str, ...]:
    """Names of the registered codecs of one ``kind`` (see KeypointCodec)."""
    return tuple(name for name, codec in KEYPOINT_CODEC_REGISTRY if codec.kind == kind)


def build_keypoint_codec(cfg, head: str, kind: str, default: str = "") -> KeypointCodec:
    """Build the codec that ``MRCNN_EXT.KEYPOINT_HEAD.CODEC`` names.

    Args:
        cfg: the config.
        head: name of the head, for errors.
        kind: the kind of codec that the head's predictions are for.
        default: name of the codec to build if the key names one of another kind.

    Raises:
        ConfigError: the name is not registered, or the codec is of another kind and there is no
            default.
    """
    asked = cfg.MRCNN_EXT.KEYPOINT_HEAD.CODEC
    name = _ALIASES.get(asked, asked)
    if name in KEYPOINT_CODEC_REGISTRY and KEYPOINT_CODEC_REGISTRY.get(name).kind != kind:
        name = default or name
    if name not in KEYPOINT_CODEC_REGISTRY or KEYPOINT_CODEC_REGISTRY.get(name).kind != kind:
        raise ConfigError(f"{_KEY} is '{asked}'; {head} has {list(codec_names(kind))}.")
    return KEYPOINT_CODEC_REGISTRY.get(name)(cfg)
