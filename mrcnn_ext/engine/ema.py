# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of a model's weights, evaluated and saved beside them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from torch import Tensor, nn

from ..checkpoint.safe_checkpointer import why_unwritten
from ..errors import ConfigError, DataError
from ..files import replaced_file
from ..modes import same_random_numbers

__all__ = ["EMA_PREFIX", "EMAHook", "EMAWeightsCheckpointer", "find_ema"]

logger = logging.getLogger("detectron2." + __name__)  # which its tools print

EMA_PREFIX = "ema/"
_FINAL = "model_ema_final"
# Averaging in these would lose what a step adds.
_COARSE = (torch.float16, torch.bfloat16)


class EMAHook(HookBase):
    """Keeps an average of the weights over the steps, which often generalises better than the last.

    After step t = 0, 1, … of the average: average = d · average + (1 - d) · weights, where d =
    min(decay, (1 + t) / (warmup + t)), so that the first steps are soon forgotten (as TensorFlow's
    ExponentialMovingAverage with ``num_updates``; Tarvainen and Valpola 2017 for its use).

    It begins with the weights that training begins with. All floating tensors of the state_dict are
    averaged: statistics of BatchNorm, too, which then are those of the steps that the weights are of;
    integers are copied. The state goes into checkpoints, as that of all hooks.

    Register it before the hook that writes checkpoints. EvalHooks of the trainer then evaluate both,
    see :meth:`evaluate`.
    """

    before_checkpoint = True  # where a list of hooks has it

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        decay: float = 0.999,
        warmup: float = 10,
        evaluate: bool = True,
        output_dir: str = "",
    ) -> None:
        """
        Args:
            model: may be wrapped for several processes; None: the trainer's.
            decay: in [0, 1).
            warmup: 0: the decay is the same from the first step.
            evaluate: let the trainer's EvalHooks evaluate the average, too.
            output_dir: where model_ema_final.pth is written at the end; "": nowhere.

        Raises:
            ConfigError: an argument is out of range.
        """
        if not (0 <= decay < 1 and warmup >= 0):
            raise ConfigError(
                f"the moving average has decay {decay} (MRCNN_EXT.EMA.DECAY) and warmup {warmup} "
                "(MRCNN_EXT.EMA.WARMUP); expected a decay at least 0 and less than 1, and a warmup "
                "of 0 or more."
            )
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self._given = model
        self._output_dir = output_dir
        self._evaluates, self._evaluating = evaluate, False
        self._average: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}
        self._applied = False

    # ---- as a hook -------------------------------------------------------------------------------

    def before_train(self) -> None:
        self.start()
        for hook in self.trainer._hooks if self._evaluates else ():
            if isinstance(hook, EvalHook):
                hook._func = functools.partial(self.evaluate, hook._func)

    def after_step(self) -> None:
        self.update()

    def after_train(self) -> None:
        finished = self.trainer.iter >= self.trainer.max_iter
        if finished and self._output_dir and comm.is_main_process():
            self.save(Path(self._output_dir) / f"{_FINAL}.pth")

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": dict(self._average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what a checkpoint has; :meth:`start` puts it on the model's device."""
        self.updates = int(state["updates"])
        self._loaded = dict(state["average"])
        self._average = {}

    # ---- by hand ---------------------------------------------------------------------------------

    @property
    def _model(self) -> nn.Module:
        model = self.trainer.model if self._given is None else self._given
        return getattr(model, "module", model)  # of DistributedDataParallel

    @torch.no_grad()
    def start(self) -> None:
        """Begin with the model's weights, or with the average that was loaded."""
        tensors = _tensors(self._model)
        average = {name: _copy(tensor) for name, tensor in tensors.items()}
        loaded, self._loaded = self._loaded, {}
        if loaded:
            fits = loaded.keys() == average.keys() and all(
                loaded[name].shape == tensor.shape for name, tensor in average.items()
            )
            if fits:
                for name, tensor in average.items():
                    tensor.copy_(loaded[name])
            else:
                self.updates = 0
                logger.warning(
                    "The moving average in the checkpoint is one of another model: it begins anew with "
                    "the model's weights."
                )
        self._average = average

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights into the average, after a step. Nothing waits for a GPU."""
        decay = self.decay_at(self.updates)
        self.updates += 1
        tensors = _tensors(self._model)
        floats = [name for name, tensor in self._average.items() if tensor.is_floating_point()]
        averages = [self._average[name] for name in floats]
        weights = [tensors[name].to(a.dtype) for name, a in zip(floats, averages)]
        if averages:
            torch._foreach_lerp_(averages, weights, 1 - decay)
        for name, tensor in self._average.items():
            if not tensor.is_floating_point():
                tensor.copy_(tensors[name])

    def decay_at(self, update: int) -> float:
        """The decay of an update, counted from 0."""
        if not self.warmup:
            return self.decay
        return min(self.decay, (1 + update) / (self.warmup + update))

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[nn.Module]:
        """Give the model the average while the block runs; afterwards its own weights, bit for bit."""
        if self._applied or not self._average:  # within itself, or before training
            yield self._model
            return
        tensors = _tensors(self._model)
        own = {name: tensor.clone() for name, tensor in tensors.items()}
        self._applied = True
        try:
            for name, tensor in tensors.items():
                tensor.copy_(self._average[name])
            with torch.enable_grad():
                yield self._model
        finally:
            for name, tensor in tensors.items():
                tensor.copy_(own[name])
            self._applied = False

    def evaluate(self, function: Callable[[], Mapping | None]) -> dict:
        """Results of the model's own weights, and those of the average under "ema".

        The average comes first, so files that the evaluation writes are those of the model's own
        weights. It draws no random numbers of the training.

        Args:
            function: evaluates the model; returns a nested dict, and nothing in processes that have no
                results.
        """
        if self._evaluating:  # within itself
            return dict(function() or {})
        if comm.is_main_process():
            logger.info("Evaluating the moving average of the weights:")
        self._evaluating = True
        try:
            # Loaders of an evaluation draw their workers' seeds from the generator of the training.
            with same_random_numbers(), self.applied():
                average = function()
        finally:
            self._evaluating = False
        if comm.is_main_process():
            logger.info("Evaluating the weights themselves:")
        results = dict(function() or {})
        if average:
            results[EMA_PREFIX.rstrip("/")] = average
        return results

    def save(self, path: Path, **extra: Any) -> None:
        """Write the average as weights of the model, in the form of a checkpoint.

        Raises:
            DataError: it cannot be written; one that is there is as it was.
        """
        with self.applied() as model:
            content = {"model": model.state_dict(), **extra}
            try:
                with replaced_file(path) as temporary:
                    torch.save(content, temporary)
            except (OSError, RuntimeError) as error:
                reason = why_unwritten(error)
                if reason is None:
                    raise
                raise DataError(
                    f"the moving average {path} cannot be written: {reason}."
                ) from error
        logger.info(f"Saved the moving average of the weights to {path}")


class EMAWeightsCheckpointer:
    """What a BestCheckpointer needs of a checkpointer, for the average.

    It writes weights alone: training does not go on from the average.
    """

    def __init__(self, ema: EMAHook, save_dir: str) -> None:
        self.save_dir = save_dir
        self._ema = ema

    def save(self, name: str, **extra: Any) -> None:
        self._ema.save(Path(self.save_dir) / f"{name}.pth", **extra)


def find_ema(trainer) -> EMAHook | None:
    """The trainer's moving average; None if it has none."""
    return next((hook for hook in trainer._hooks if isinstance(hook, EMAHook)), None)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the state_dict, each once."""
    kept = model.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return {**dict(model.named_parameters()), **buffers}


def _copy(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.dtype in _COARSE else tensor.dtype
    return tensor.detach().to(dtype, copy=True)
