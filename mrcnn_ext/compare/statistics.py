# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Means, spreads, and intervals of paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

__all__ = [
    "Interval",
    "bootstrap_draws",
    "calibration",
    "mean",
    "number_or_none",
    "paired_bootstrap",
    "rank_correlation",
    "spread",
]


@dataclass(frozen=True)
class Interval:
    """A difference of means with its bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN without values."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()) if array.size else float("nan")


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; NaN for fewer than two values."""
    return float(np.std(np.asarray(values, dtype=float), ddof=1)) if len(values) > 1 else np.nan


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation; NaN if one side is constant, or for fewer than three pairs."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)


def bootstrap_draws(
    seeds: int, images: int, repeats: int = 2000, generator: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw seeds and images with replacement; count how often each is drawn in each repeat.

    Returns:
        (repeats, seeds) and (repeats, images) int64. Equal arguments give equal draws, so that all
        heads and measures share them.
    """
    rng = np.random.default_rng(generator)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=repeats)
    by_image = rng.multinomial(images, np.full(images, 1 / images), size=repeats)
    return by_seed, by_image


def paired_bootstrap(
    differences: np.ndarray,
    images: np.ndarray,
    draws: tuple[np.ndarray, np.ndarray] | None = None,
    level: float = 0.95,
) -> Interval:
    """Mean difference over objects and seeds, with a percentile interval.

    Seeds and whole images are drawn with replacement: objects of one image are not independent. A
    repeat's value is the mean over drawn seeds of the mean over drawn objects.

    Args:
        differences: (S, N) of N objects in S seeds: one head minus the other on the same object,
            trained with the same seed.
        images: (N,) number of the image of each object.
        draws: from :func:`bootstrap_draws` for S seeds and the number of different images.
        level: of the interval.

    Returns:
        all NaN without objects.
    """
    if differences.size == 0:
        return Interval(np.nan, np.nan, np.nan)
    names, index = np.unique(images, return_inverse=True)
    sums = np.stack([np.bincount(index, row, minlength=len(names)) for row in differences])
    counts = np.bincount(index, minlength=len(names))
    by_seed, by_image = draws or bootstrap_draws(len(differences), len(names))
    total = ((by_seed @ sums) * by_image).sum(axis=1)
    objects = by_image @ counts * by_seed.sum(axis=1)
    values = total[objects > 0] / objects[objects > 0]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def number_or_none(value: float) -> float | None:
    """The number as json can hold it: None for NaN."""
    return None if value != value else float(value)


def calibration(
    rows: Sequence[dict[str, float]], qualities: Sequence[str], truth: str
) -> dict[str, dict]:
    """Measure how well each score predicts the true quality.

    Args:
        rows: one for each matched detection, with the key ``truth`` and some of ``qualities``.
        qualities: names of scores.
        truth: name of the true quality, for example "iou".

    Returns:
        by quality: "error", the mean of \\|quality - truth\\|; "rank correlation", Spearman's, None
        where there is none; "number".
    """
    out = {}
    for kind in qualities:
        pairs = np.array([(r[kind], r[truth]) for r in rows if kind in r]).reshape(-1, 2)
        if len(pairs):
            out[kind] = {
                "error": mean(np.abs(pairs[:, 0] - pairs[:, 1])),
                "rank correlation": number_or_none(rank_correlation(pairs[:, 0], pairs[:, 1])),
                "number": len(pairs),
            }
    return out
