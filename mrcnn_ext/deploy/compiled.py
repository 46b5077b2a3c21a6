# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Compile the parts of a model whose work does not depend on what it finds."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ConfigError

__all__ = ["check_compiler", "compile_layers"]


def compile_layers(model: nn.Module) -> list[str]:
    """Let ``torch.compile`` compile backbone and neck, and the layers of the heads, in place.

    Proposals, NMS, pooling and post-processing are left: their sizes differ from image to image. The
    compilation itself happens when a part runs for the first time.

    Args:
        model: on its device, for inference.

    Returns:
        names of the compiled parts.
    """
    parts = [
        name for name in ("backbone", "proposal_generator.rpn_head", "head") if _has(model, name)
    ]
    parts += [name for name, _ in model.named_modules() if _is_head_part(name)]
    for name in parts:
        # The number of regions differs from image to image.
        dynamic = True if name.startswith("roi_heads.") else None
        model.get_submodule(name).compile(dynamic=dynamic)
    return parts


def _has(model: nn.Module, name: str) -> bool:
    try:
        return isinstance(model.get_submodule(name), nn.Module)
    except AttributeError:
        return False


def _is_head_part(name: str) -> bool:
    """Box heads and res5 whole, of the others their convolutions: they also take instances."""
    if not name.startswith("roi_heads."):
        return False
    part, _, rest = name.removeprefix("roi_heads.").partition(".")
    if part == "box_head":
        return not rest or (rest.isdigit())
    if part == "res5":
        return not rest
    return part in ("mask_head", "keypoint_head") and rest.startswith(("mask_fcn", "conv_fcn"))


def check_compiler(device: torch.device) -> None:
    """
    Raises:
        ConfigError: there is no C++ compiler, which torch.compile needs for a CPU.
    """
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ConfigError(
            "compile is True, but torch.compile finds no C++ compiler (g++; CXX names another), which "
            "it needs on a CPU."
        ) from error
