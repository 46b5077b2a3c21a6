# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pretrained weights for three channels in a model whose images have another number."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from ..config.bands import FIRST_CONVOLUTIONS, pixel_channels
from ..config.check_values import unexpected

__all__ = ["FirstConvolution", "first_convolutions"]

logger = logging.getLogger("detectron2." + __name__)  # which its tools print

_COLOURS = 3
_FROZEN = (
    " It is frozen, so it will not learn the bands: set MODEL.BACKBONE.FREEZE_AT (freeze_at) to 0."
)


@dataclass(frozen=True)
class FirstConvolution:
    """How the first convolution begins where a file has it for another number of channels.

    With filters w_c of the file and C channels of the model, each new filter is 3 / C times

    - "mean": (w_0 + w_1 + w_2) / 3 for every channel;
    - "copy": w_c for the channels that are red, green and blue, the mean for the others.

    An image whose channels are all equal, after normalisation, then gives what a grey one gave; one
    channel has the sum of the filters. (timm and segmentation_models.pytorch scale by 3 / C, too.)

    Args:
        rule: "mean", "copy" or "random", which leaves the layer as it is.
        rgb: channels of the model that are red, green and blue; for "copy".
        weights_order: of the file's channels, "BGR" or "RGB".

    Raises:
        ConfigError: an argument has a value that cannot work.
    """

    rule: str = "mean"
    rgb: tuple[int, ...] = ()
    weights_order: str = "BGR"

    def __post_init__(self) -> None:
        expected = {
            "rule": (self.rule in FIRST_CONVOLUTIONS, " or ".join(map(repr, FIRST_CONVOLUTIONS))),
            "weights_order": (self.weights_order in ("BGR", "RGB"), "'BGR' or 'RGB'"),
            "rgb": (
                len(self.rgb) == 3 or self.rule != "copy",
                "three channels for the rule 'copy'",
            ),
        }
        for name, (is_right, what) in expected.items():
            if not is_right:
                raise unexpected(f"first_convolution's {name}", getattr(self, name), what)

    @classmethod
    def from_config(cls, cfg) -> FirstConvolution:
        """Of a config with the ``MRCNN_EXT`` node."""
        keys = cfg.MRCNN_EXT.DATA
        rgb = tuple(pixel_channels(keys.BANDS, keys.RGB_BANDS)) if keys.RGB_BANDS else ()
        order = cfg.INPUT.FORMAT if cfg.INPUT.FORMAT in ("BGR", "RGB") else "BGR"
        return cls(keys.FIRST_CONVOLUTION, rgb, order)

    def adapt(self, model: nn.Module, checkpoint: dict[str, Any]) -> None:
        """Make the file's tensors fit the model, in place; says in the log which, and how.

        Nothing happens where the channels are the same, or the file's are not three.

        Args:
            checkpoint: as Detectron2's checkpointer reads it: "model" has tensors or arrays by name.
        """
        found = first_convolutions(model)
        if not found:
            return
        if checkpoint.get("matching_heuristics", False):
            self._match(model, found, checkpoint)
        weights = checkpoint["model"]
        for name, layer in found.items():
            key = next((k for k in (name, f"module.{name}") if k in weights), None)
            if key is None:
                continue
            given = _tensor(weights[key])
            wanted = layer.weight.shape
            of_colours = (wanted[0], _COLOURS, *wanted[2:])
            if not isinstance(given, Tensor) or tuple(given.shape) != of_colours:
                continue
            if self.rule == "random":
                logger.info(
                    f"{name}: begins random: the file has it for 3 channels, the model has "
                    f"{wanted[1]} (FIRST_CONVOLUTION 'random')."
                )
                continue
            weights[key] = self.adapted(given, wanted[1])
            frozen = "" if layer.weight.requires_grad else _FROZEN
            logger.log(
                logging.WARNING if frozen else logging.INFO,
                f"{name}: made from the file's {list(given.shape)} for {wanted[1]} channels: "
                f"{self._words(wanted[1])} (FIRST_CONVOLUTION '{self.rule}').{frozen}",
            )

    def adapted(self, weight: Tensor, channels: int) -> Tensor:
        """
        Args:
            weight: (O, 3, h, w).

        Returns:
            (O, ``channels``, h, w).
        """
        mean = weight.float().mean(dim=1, keepdim=True)
        new = mean.repeat(1, channels, 1, 1)
        if self.rule == "copy":
            colours = (2, 1, 0) if self.weights_order == "BGR" else (0, 1, 2)
            for channel, colour in zip(self.rgb, colours):
                new[:, channel] = weight[:, colour].float()
        return (new * (_COLOURS / channels)).to(weight.dtype)

    def _words(self, channels: int) -> str:
        if channels == 1:
            return "the sum of the filters"
        what = "the mean of the filters for each"
        if self.rule == "copy":
            red, green, blue = self.rgb
            what = (
                f"the filters of red, green, blue for {red}, {green}, {blue}, their mean for others"
            )
        return f"{what}, times 3/{channels}"

    def _match(
        self, model: nn.Module, found: dict[str, nn.Conv2d], checkpoint: dict[str, Any]
    ) -> None:
        """Give the file's tensors the model's names by Detectron2's rules, which go by shapes, too."""
        state = dict(model.state_dict())
        for name in found:
            weight = state[name]
            state[name] = weight.new_zeros((weight.shape[0], _COLOURS, *weight.shape[2:]))
        given = {k: _tensor(v) for k, v in checkpoint["model"].items()}
        shapes = [tuple(v.shape) for v in given.values() if isinstance(v, Tensor)]
        if not any(len(shape) == 4 and shape[1] == _COLOURS for shape in shapes):
            return
        is_caffe2 = checkpoint.get("__author__") == "Caffe2"
        checkpoint["model"] = align_and_update_state_dicts(state, given, c2_conversion=is_caffe2)
        checkpoint["matching_heuristics"] = False


def _tensor(value):
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def first_convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Convolutions of the backbone that may take an image, by the names of their weights.

    Those with as many input channels as the model has pixel means, if that is not three. Most networks
    have one of them.
    """
    mean = getattr(model, "pixel_mean", None)
    if not isinstance(mean, Tensor) or mean.numel() == _COLOURS:
        return {}
    part = "backbone" if isinstance(getattr(model, "backbone", None), nn.Module) else ""
    return {
        f"{part}.{name}.weight".lstrip("."): module
        for name, module in model.get_submodule(part).named_modules()
        if isinstance(module, nn.Conv2d)
        and module.in_channels == mean.numel()
        and module.groups == 1
    }
