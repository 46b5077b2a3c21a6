# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Random numbers that depend on where training is, and on nothing that happened before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["sample_random_numbers", "seed_step"]

_STEP, _SAMPLE = 1, 2  # so that step n and sample n have different numbers


def _numbers(*place: int) -> list[int]:
    """Three seeds of 32 bits for a place, from NumPy's SeedSequence, which makes them independent."""
    return [int(n) for n in np.random.SeedSequence(place).generate_state(3)]


def seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seed Python, NumPy and PyTorch (GPUs included) for one training step.

    Args:
        seed: of the training, 0 or more.
        rank: of the process.
        iteration: of the step.
    """
    python, numpy, torch_seed = _numbers(seed, _STEP, rank, iteration)
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(torch_seed)


@contextmanager
def sample_random_numbers(seed: int, rank: int, position: int) -> Iterator[None]:
    """Seed Python, NumPy and PyTorch on the CPU for one sample; their states come back afterwards.

    Args:
        seed, rank: as for :func:`seed_step`.
        position: of the sample among all that the process gets.
    """
    python, numpy, torch_seed = _numbers(seed, _SAMPLE, rank, position)
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(python)
    np.random.seed(numpy)
    torch.random.default_generator.manual_seed(torch_seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
