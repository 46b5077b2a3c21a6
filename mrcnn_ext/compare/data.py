# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Load training images in an order that depends only on the seed.

Detectron2's loader draws order and augmentation from the random generators of the process and of
its workers. Here each image of a training has a running number; seed and number decide the image and
its augmentation. Two heads therefore see the same images, whatever they draw themselves, however many
workers run, and wherever an interrupted training resumes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from detectron2.data.build import trivial_batch_collator
from detectron2.utils.env import seed_all_rng
from torch.utils.data import DataLoader, Dataset

from ..config.check_values import unexpected, value_of
from ..data import TrainingMapper
from ..data.train_loader import training_data

__all__ = ["Checksum", "PairedLoader", "image_of", "mixed_seed"]


def mixed_seed(*numbers: int) -> int:
    """Mix several numbers into one seed of 31 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1


def image_of(number: int, size: int, seed: int) -> int:
    """Index of the image at a running number: each of ``size`` images once, shuffled, then again."""
    epoch, place = divmod(number, size)
    return int(_order(size, seed, epoch)[place])


@lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


class _Numbered(Dataset):
    def __init__(self, records: Dataset, mapper: TrainingMapper, seed: int) -> None:
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> dict:
        seed_all_rng(mixed_seed(self.seed, 1, number))  # augmentations draw from numpy's generator
        return self.mapper(self.records[image_of(number, len(self.records), self.seed)])


class Checksum:
    """CRC-32 over arrays, which a checkpointer can save."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, array: np.ndarray) -> None:
        self.value = zlib.crc32(array.tobytes(), self.value)

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


_PLAIN_SAMPLERS = {"DATALOADER.SAMPLER_TRAIN": "TrainingSampler", "MRCNN_EXT.DATA.SAMPLER": ""}


class PairedLoader:
    """Load batches of a config's training set from iteration ``start`` on; seed each step.

    Attributes:
        seen: checksum of all images and boxes loaded.
    """

    def __init__(self, cfg, *, seed: int, start: int, stop: int, seen: Checksum) -> None:
        """
        Args:
            cfg: names data sets, augmentation and batch size. Images are not grouped by aspect
                ratio: such groups depend on where a training was interrupted.
            seed: decides order, augmentation and what the model draws.
            start, stop: iterations.

        Raises:
            ConfigError: a sampler is chosen, or an augmentation cannot be used.
        """
        for key, plain in _PLAIN_SAMPLERS.items():
            if value_of(cfg, key) != plain:
                expected = f"{plain!r}: a comparison draws all images equally often"
                raise unexpected(key, value_of(cfg, key), expected)
        size = cfg.SOLVER.IMS_PER_BATCH
        self.loader = DataLoader(
            _Numbered(*training_data(cfg), seed),
            batch_sampler=[range(i * size, (i + 1) * size) for i in range(start, stop)],
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=trivial_batch_collator,
        )
        self.seed = seed
        self.start = start
        self.seen = seen

    def __iter__(self) -> Iterator[list[dict]]:
        for iteration, batch in enumerate(self.loader, self.start):
            for item in batch:
                self.seen.add(item["image"].numpy())
                self.seen.add(item["instances"].gt_boxes.tensor.numpy())
            # What the model draws in this step (which proposals, for one) must not depend on what
            # a head drew in the last one.
            seed_all_rng(mixed_seed(self.seed, 2, iteration))
            yield batch
