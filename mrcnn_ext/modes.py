# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Switch modules between training and eval mode, and back; keep training's random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

__all__ = ["eval_layers", "losses_in_eval", "restore_modes", "same_random_numbers"]


@contextmanager
def restore_modes(model: nn.Module) -> Iterator[None]:
    """Give every module its mode back afterwards: some may be in eval mode during training."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def same_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Restore the random states of PyTorch, also on the GPU in use, NumPy and Python afterwards.

    Args:
        seed: of PyTorch within the block; None: goes on as before.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    states = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])


@contextmanager
def losses_in_eval(model: nn.Module) -> Iterator[None]:
    """Let a model return losses as in training, with layers that compute as in testing.

    Modes and buffers are restored afterwards.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with restore_modes(model):
        model.train()
        eval_layers(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


def eval_layers(model: nn.Module, skip: Callable[[str], bool] = lambda name: False) -> None:
    """Put the backbone, norm layers and dropout into eval mode; the rest keeps returning losses.

    Args:
        model: any model of Detectron2.
        skip: names of modules, as in ``model.named_modules()``, to leave as they are.
    """
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module):
        backbone.eval()  # it has no losses, and may drop whole layers in training
    for name, module in model.named_modules():
        if _differs_in_training(module) and not skip(name):
            module.eval()


def _differs_in_training(module: nn.Module) -> bool:
    return (
        getattr(module, "running_mean", None) is not None
        or isinstance(module, nn.modules.dropout._DropoutNd)
        or "Drop" in type(module).__name__  # timm's DropPath
    )
