# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Gradient accumulation: the step of a large batch in the memory of a small one."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from ..errors import ConfigError
from .roi_counts import check_roi_counts, loss_weights, roi_counts

__all__ = ["NORMALIZERS", "AccumulatingAMPTrainer", "AccumulatingTrainer", "accumulate"]

NORMALIZERS = ("micro_batch", "whole_batch")
_STEPS, _NORMALIZER = "MRCNN_EXT.SOLVER.ACCUMULATE", "MRCNN_EXT.SOLVER.ACCUMULATE_NORMALIZER"


class AccumulatingTrainer(SimpleTrainer):
    """SimpleTrainer that computes the gradient of each batch in parts.

    The loader gives batches of the same images as without accumulation, so learning rate, schedule
    and the meaning of an iteration stay. A part's losses are weighted by its share of the batch's
    images; the gradient is that of their sum. Processes exchange gradients once in a step.

    Scalars that the model stores are means over the parts, stored once in a step.
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        *args,
        steps: int,
        normalizer: str = "micro_batch",
        **kwargs,
    ) -> None:
        """
        Args:
            model, data_loader, optimizer, args, kwargs: as for the parent. The loader gives lists of
                images.
            steps: number of parts; one that does not divide a batch makes parts of unequal size.
            normalizer: "micro_batch": the model's losses are those of each part as the model returns
                them. "whole_batch": losses that are means over RoIs, masks or keypoints of a part are
                weighted by its share of them, which makes them means over the whole batch; they are
                counted in one more pass without gradients.

        Raises:
            ConfigError: a number of parts that does not divide the loader's batches, an unknown
                normalizer, or RoI heads whose RoIs cannot be counted.
        """
        super().__init__(model, data_loader, optimizer, *args, **kwargs)
        self.set_accumulation(steps=steps, normalizer=normalizer)

    def set_accumulation(self, *, steps: int, normalizer: str = "micro_batch") -> None:
        """Set the arguments of the same names; raises as the constructor does."""
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"{_STEPS} (steps) is {steps!r}; expected a whole number, 1 or more.")
        if normalizer not in NORMALIZERS:
            raise ConfigError(
                f"{_NORMALIZER} (normalizer) is {normalizer!r}; expected 'micro_batch' or "
                "'whole_batch'."
            )
        size = getattr(self.data_loader, "batch_size", None)
        if isinstance(size, int) and size % steps:
            raise ConfigError(
                f"{_STEPS} is {steps}, but each process has {size} images of a batch "
                "(SOLVER.IMS_PER_BATCH divided by the number of processes); expected a divisor of "
                f"{size}."
            )
        if normalizer == "whole_batch":
            check_roi_counts(_bare(self.model), _NORMALIZER)
        self.accumulation_steps = steps
        self.accumulation_normalizer = normalizer

    def run_step(self) -> None:
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        self._check_device()
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        parts = _split(data, self.accumulation_steps)

        self.optimizer.zero_grad()
        losses = self._accumulate(parts)
        if hasattr(self, "after_backward"):  # Detectron2's main has it
            self.after_backward()
        # Not in main's thread for it, which would find the storage of a part of the next step.
        self._write_metrics(losses, data_time)
        self._step()

    def _accumulate(self, parts: list[list[dict]]) -> dict[str, Tensor]:
        """Gradients of all parts; the batch's losses, without gradient."""
        weights, seeds = self._weights(parts)
        totals: dict[str, Tensor] = {}
        with _means_of_scalars(len(parts)) as storages:
            for index, part in enumerate(parts):
                last = index == len(parts) - 1
                with nullcontext() if last else _no_sync(self.model), storages[index]:
                    with self._seeded(seeds, index):
                        losses = self._losses(part)
                    weighted = {name: loss * weights[index](name) for name, loss in losses.items()}
                    self._backward(sum(weighted.values()))
                for name, loss in weighted.items():
                    loss = loss.detach()
                    totals[name] = totals[name] + loss if name in totals else loss
        return totals

    def _weights(self, parts: list[list[dict]]):
        """For each part a function from the name of a loss to its weight; seeds of the parts."""
        images = [len(part) for part in parts]
        if self.accumulation_normalizer == "micro_batch" or len(parts) == 1:
            return loss_weights(images, [{} for _ in parts]), None
        # Both passes must draw the same proposals: each part has a seed of its own, drawn from the
        # generator that the model would use.
        seeds = torch.randint(2**62, (len(parts),)).tolist()
        counts = []
        storage = EventStorage(get_event_storage().iter)
        for index, part in enumerate(parts):
            with self._seeded(seeds, index), storage, self._autocast():
                counts.append(roi_counts(_bare(self.model), part))
        return loss_weights(images, counts), seeds

    @contextmanager
    def _seeded(self, seeds: Sequence[int] | None, index: int) -> Iterator[None]:
        if seeds is None:
            yield
            return
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seeds[index])
            yield

    def _losses(self, part: list[dict]) -> dict[str, Tensor]:
        with self._autocast():
            losses = self.model(part)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    # What AMPTrainer does in another way

    def _check_device(self) -> None:
        pass

    def _autocast(self) -> AbstractContextManager:
        return nullcontext()

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _step(self) -> None:
        self.optimizer.step()


class AccumulatingAMPTrainer(AccumulatingTrainer, AMPTrainer):
    """:class:`AccumulatingTrainer` with the mixed precision of Detectron2's AMPTrainer."""

    def _check_device(self) -> None:
        assert torch.cuda.is_available(), (
            f"[{type(self).__name__}] CUDA is required for AMP training!"
        )

    def _autocast(self) -> AbstractContextManager:
        # Detectron2's main lets the precision be chosen.
        return torch.autocast("cuda", dtype=getattr(self, "precision", torch.float16))

    def _backward(self, loss: Tensor) -> None:
        self.grad_scaler.scale(loss).backward()

    def _step(self) -> None:
        if getattr(self, "log_grad_scaler", False):
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


def accumulate(trainer, *, steps: int, normalizer: str = "micro_batch") -> None:
    """Let a trainer that exists accumulate gradients; all that it holds stays, its iterator included.

    Args:
        trainer: a SimpleTrainer or AMPTrainer, or a DefaultTrainer, which has one.
        steps, normalizer: as for :class:`AccumulatingTrainer`.

    Raises:
        ConfigError: as :class:`AccumulatingTrainer`, and for a trainer with steps of its own.
    """
    inner = getattr(trainer, "_trainer", trainer)
    kinds = {SimpleTrainer: AccumulatingTrainer, AMPTrainer: AccumulatingAMPTrainer}
    if type(inner) not in kinds and not isinstance(inner, AccumulatingTrainer):
        raise ConfigError(
            f"{_STEPS} is {steps}, but the trainer's steps are those of {type(inner).__name__}; "
            "expected Detectron2's SimpleTrainer or AMPTrainer."
        )
    inner.__class__ = kinds.get(type(inner), type(inner))
    inner.set_accumulation(steps=steps, normalizer=normalizer)


def _bare(model: nn.Module) -> nn.Module:
    return getattr(model, "module", model)  # of DistributedDataParallel


def _no_sync(model: nn.Module) -> AbstractContextManager:
    return model.no_sync() if hasattr(model, "no_sync") else nullcontext()


def _split(data, steps: int) -> list[list[dict]]:
    if not isinstance(data, (list, tuple)) or not data:
        raise ConfigError(
            f"{_STEPS} is {steps}, but the data loader gives a {type(data).__name__}; expected a list "
            "of images."
        )
    size = -(-len(data) // steps)
    return [list(data[start : start + size]) for start in range(0, len(data), size)]


@contextmanager
def _means_of_scalars(number: int) -> Iterator[list[EventStorage]]:
    """A storage for each part; their means, and all pictures, go to the one in use before."""
    outer = get_event_storage()
    parts = [EventStorage(outer.iter) for _ in range(number)]
    yield parts
    values: dict[str, list[float]] = defaultdict(list)
    hints: dict[str, bool] = {}
    for part in parts:
        for name, (value, _) in part.latest().items():
            values[name].append(value)
        hints.update(part.smoothing_hints())
        for name, picture, _ in part._vis_data:
            outer.put_image(name, picture)
        outer._histograms.extend(part._histograms)
    for name, found in values.items():
        outer.put_scalar(name, sum(found) / len(found), smoothing_hint=hints[name])
