# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A training loader that can start at any step, with the batches that it would have given there.

Detectron2's loader has no position: its aspect-ratio buckets hold images, and its workers draw from
generators that nobody can save. Here batches are lists of indices: which come in which batch is known
without reading an image, from the sampler and the widths and heights that the data set lists. Random
numbers of a sample come from its position in the stream.
"""

from __future__ import annotations

import atexit
import copy
import itertools
import multiprocessing.util
import random
import signal
import weakref
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
import torch.utils.data
from detectron2.data.common import AspectRatioGroupedDataset, MapDataset, ToIterableDataset
from detectron2.utils import comm

from ...errors import ConfigError, DataError
from .seeds import sample_random_numbers

__all__ = ["ExactLoader", "batches_of", "make_exact"]

_TRIES = 100  # how many other samples may take the place of one that the mapper refuses
_KEPT_OPTIONS = ("pin_memory", "prefetch_factor", "timeout", "multiprocessing_context")


def make_exact(loader, *, seed: int = -1) -> ExactLoader:
    """A loader of the same data, mapper, sampler and batch size that can start at any step.

    Args:
        loader: what ``detectron2.data.build_detection_train_loader`` returns.
        seed: of all that is random; below 0: one is drawn, the same in all processes.

    Raises:
        ConfigError: it is no such loader.
    """
    grouped, collate = None, None
    inner = loader
    if hasattr(inner, "_map_func") and hasattr(inner, "_dataset"):  # a collate_fn was given
        collate, inner = inner._map_func, inner._dataset
    if isinstance(inner, AspectRatioGroupedDataset):
        grouped, inner = inner.batch_size, inner.dataset
    data = getattr(inner, "dataset", None)
    if not isinstance(inner, torch.utils.data.DataLoader) or not isinstance(
        data, ToIterableDataset
    ):
        raise ConfigError(
            "MRCNN_EXT.RESUME.EXACT is True, but the trainer's build_train_loader returns "
            f"{type(loader).__module__}.{type(loader).__qualname__}; expected what "
            "detectron2.data.build_detection_train_loader returns, for a data set with indices."
        )
    if grouped is None:
        collate = inner.collate_fn
    options = {name: getattr(inner, name) for name in _KEPT_OPTIONS}
    return ExactLoader(
        data.dataset,
        data.sampler,
        grouped or inner.batch_size,
        aspect_ratio_grouping=grouped is not None,
        num_workers=inner.num_workers,
        seed=seed,
        collate_fn=collate,
        **options,
    )


class ExactLoader:
    """An endless iterable of batches, each a list of mapped samples.

    Workers start with the first batch that is asked for, not before: until then attributes can be set.

    Attributes:
        seed: of the order of images, and of their random numbers.
        asked_seed: the one that was given; None: it was drawn.
        start: number of batches that are left out at the beginning.
    """

    def __init__(
        self,
        dataset: torch.utils.data.Dataset,
        sampler: torch.utils.data.Sampler,
        batch_size: int,
        *,
        aspect_ratio_grouping: bool = True,
        num_workers: int = 0,
        seed: int = -1,
        collate_fn=None,
        **options: Any,
    ) -> None:
        """
        Args:
            dataset: with indices; a MapDataset's mapper runs with the sample's own random numbers.
            sampler: an endless stream of indices for this process, of Detectron2's kinds.
            batch_size: of this process.
            aspect_ratio_grouping: batches of wide images and batches of others, as Detectron2 has.
            num_workers: processes that read images.
            seed: below 0: one is drawn, the same in all processes.
            collate_fn: for a list of samples; None: none.
            options: for torch's DataLoader.
        """
        self.dataset, self.sampler, self.batch_size = dataset, sampler, batch_size
        self.aspect_ratio_grouping = aspect_ratio_grouping
        self.num_workers = num_workers
        self.asked_seed = seed if seed >= 0 else None
        self.seed = seed if seed >= 0 else comm.shared_random_seed()
        self.start = 0
        self._collate = collate_fn or _as_list
        self._is_wide: list[bool] | None = None
        self._options = {k: v for k, v in options.items() if v is not None}

    def batch(self, number: int) -> list[tuple[int, int]]:
        """Batch ``number`` as (position in the stream, index); reads no image."""
        return next(itertools.islice(self._batches(), number, None))

    def __iter__(self) -> Iterator[list]:
        batches = self._load()
        _end_at_exit(batches)
        return batches

    def _load(self) -> Generator[list, None, None]:
        options = dict(self._options)
        if not self.num_workers:
            options.pop("prefetch_factor", None)
            options.pop("multiprocessing_context", None)
        yield from torch.utils.data.DataLoader(
            _Samples(self.dataset, self.seed, comm.get_rank()),
            batch_sampler=_Batches(itertools.islice(self._batches(), self.start, None)),
            num_workers=self.num_workers,
            collate_fn=self._collate,
            worker_init_fn=_outlive_signals,
            # Of its own: it draws a seed when it starts, which is in another step after a resume.
            generator=torch.Generator().manual_seed(self.seed % 2**31),
            **options,
        )

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        return batches_of(_seeded(self.sampler, self.seed), self.batch_size, self._wide())

    def _wide(self) -> list[bool] | None:
        """For every index, which bucket it is in; None: there are no buckets."""
        if self.aspect_ratio_grouping and self._is_wide is None:
            entries = getattr(self.dataset, "_dataset", self.dataset)
            every = (entries[index] for index in range(len(entries)))
            self._is_wide = [entry["width"] > entry["height"] for entry in every]
        return self._is_wide


def _seeded(sampler, seed: int):
    """A sampler of Detectron2 with a seed of ours; others must give the same order by themselves."""
    if not hasattr(sampler, "_seed"):
        return sampler
    sampler = copy.copy(sampler)
    sampler._seed = seed % 2**31
    if hasattr(sampler, "_indexes_subset"):
        generator = torch.Generator().manual_seed(sampler._seed)
        order = torch.randperm(sampler._size, generator=generator)
        sampler._indexes_subset = order[: sampler._size_subset]
    return sampler


def batches_of(
    indices: Iterable[int], batch_size: int, wide: list[bool] | None = None
) -> Iterator[list[tuple[int, int]]]:
    """Batches of (position in the stream, index), in the order in which they get full.

    Args:
        indices: the stream.
        wide: for every index, which of two buckets it is in; None: one bucket for all.
    """
    buckets: tuple[list, list] = ([], [])
    for position, index in enumerate(indices):
        bucket = buckets[wide is not None and wide[index]]
        bucket.append((position, int(index)))
        if len(bucket) == batch_size:
            yield bucket[:]
            bucket.clear()


class _Batches(torch.utils.data.Sampler):
    def __init__(self, batches: Iterator[list[tuple[int, int]]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches


class _Samples(torch.utils.data.Dataset):
    """Samples by (position, index), with random numbers of their own."""

    def __init__(self, dataset, seed: int, rank: int) -> None:
        self._dataset, self._seed, self._rank = dataset, seed, rank
        mapped = isinstance(dataset, MapDataset)
        self._entries = dataset._dataset if mapped else dataset
        self._mapper = dataset._map_func if mapped else None

    def __getitem__(self, place: tuple[int, int]):
        position, index = place
        with sample_random_numbers(self._seed, self._rank, position):
            if self._mapper is None:
                return self._entries[index]
            others = random.Random(random.getrandbits(64))
            for _ in range(_TRIES):
                sample = self._map(self._entries[index])
                if sample is not None:
                    return sample
                # A mapper may refuse a sample; Detectron2 takes others in its place, too.
                index = others.randrange(len(self._entries))
        raise DataError(f"The mapper returned None for {_TRIES} samples in a row.")

    def _map(self, entry):
        """
        Raises:
            DataError: the image cannot be read; names its file, which its own error may not.
        """
        assert self._mapper is not None
        try:
            return self._mapper(entry)
        except OSError as error:
            name = entry.get("file_name", "?") if isinstance(entry, dict) else "?"
            reason = error.strerror or error
            raise DataError(f"image {name} cannot be read: {reason}.") from error


def _as_list(batch: list) -> list:
    return batch


def _end_at_exit(batches: Generator) -> None:
    """Let the workers of ``batches`` end before the process waits for its children.

    Something may still hold ``batches`` then: a trainer and its hooks refer to each other. torch leaves
    such workers to multiprocessing, which sends the SIGTERM that they outlive, and waits for ever.
    """
    reference = weakref.ref(batches)
    atexit.register(_close, reference)  # of the main process; before torch's and multiprocessing's
    # Of processes that multiprocessing started; before it closes queues, which has a priority of 10.
    multiprocessing.util.Finalize(None, _close, args=(reference,), exitpriority=100)


def _close(reference: weakref.ref) -> None:
    batches = reference()
    if batches is not None:
        with suppress(ValueError):  # it is running
            batches.close()


def _outlive_signals(_worker: int) -> None:
    """SIGTERM, which goes to all processes of a job, must not end a batch that is under way.

    Workers end with the process that started them.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
