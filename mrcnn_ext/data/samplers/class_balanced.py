# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Class-balanced sampling: a class, then an image that holds it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import Sampler

from .held_classes import HeldClasses

__all__ = ["ClassBalancedSampling", "ClassBalancedTrainingSampler"]

_CHUNK = 1024  # draws of groups at once


class ClassBalancedSampling:
    """Makes a :class:`ClassBalancedTrainingSampler` for a list of records.

    Every class that an image holds is drawn equally often, then one of its images; each of these
    equally often. Images without objects keep the share of the samples that they have of the images.

    ``mrcnn_ext.data.build_train_loader`` takes it as ``sampler``.
    """

    def __init__(self, *, dataset_names: str | Sequence[str] = (), seed: int | None = None) -> None:
        """
        Args:
            dataset_names: registered data sets, whose metadata have the names of the classes.
            seed: of the order; None: one that all processes share, drawn by Detectron2.
        """
        self.dataset_names, self.seed = dataset_names, seed

    def __call__(self, records: Sequence[dict]) -> ClassBalancedTrainingSampler:
        """
        Args:
            records: of the data set, in its order; each with "annotations".

        Raises:
            DataError: they cannot be used; names the image.
        """
        held = HeldClasses.of_records(records, self.dataset_names)
        images = held.images_of_class
        order = np.argsort(held.label, kind="stable")
        groups = [g for g in np.split(held.image[order], np.cumsum(images)[:-1]) if len(g)]
        empty = np.setdiff1d(np.arange(held.num_images), held.image)
        rest = 1 - len(empty) / held.num_images
        each = rest / len(groups)
        weights = [each] * len(groups)
        if len(empty):
            groups.append(empty)
            weights.append(1 - rest)
        held.log(
            f"Class-balanced sampling: each of {int((images > 0).sum())} classes is drawn for "
            f"{each:.2%} of the samples. Factor: this, against the share of images that hold it.",
            each * held.num_images / np.maximum(images, 1),
        )
        return ClassBalancedTrainingSampler(groups, weights, seed=self.seed)


class ClassBalancedTrainingSampler(Sampler):
    """An endless stream of indices: a group by its weight, then the next of its indices.

    The indices of a group come in a random order, each once before one comes again, and then in a new
    order. As with Detectron2's samplers, all processes make the same stream from the same seed, and
    each takes its share of it.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int] | np.ndarray],
        weights: Sequence[float],
        *,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            groups: indices of the data set; an index may be in several. None is empty.
            weights: the probability of each group, up to a common factor.
            seed: the same in all processes; None: one that they share is drawn.
        """
        self._groups = [torch.as_tensor(group, dtype=torch.int64) for group in groups]
        self._weights = torch.as_tensor(weights, dtype=torch.float64)
        # Exact resume sets the seed by this name, which Detectron2's samplers have, too.
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        shuffled = [_in_turns(group, generator) for group in self._groups]
        while True:
            drawn = torch.multinomial(self._weights, _CHUNK, replacement=True, generator=generator)
            for group in drawn.tolist():
                yield next(shuffled[group])


def _in_turns(indices: torch.Tensor, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from indices[torch.randperm(len(indices), generator=generator)].tolist()
