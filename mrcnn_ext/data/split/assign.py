# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Assign units to parts so that each part gets its share of images, and of each class."""

from __future__ import annotations

import numpy as np

__all__ = ["assign"]

# The package iterative-stratification (BSD) has the same algorithm for single images of two parts or
# equal folds; it knows no groups, and needs scikit-learn.


_TRIES = 10


def assign(
    sizes: np.ndarray, labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Iterative stratification of multi-label data.

    K. Sechidis, G. Tsoumakas, I. Vlahavas: On the Stratification of Multi-Label Data, ECML PKDD 2011.
    The class of which the fewest units are left comes first; its units go where most of it is wanted.
    Units that are groups count with the number of their images. Where units have many classes, the last
    ones go where the first ones let them: of ten draws, the one that is nearest to the shares is kept.

    Args:
        sizes: (U,) images of each unit, at least 1.
        labels: (U, K) images of each unit that show class k; K may be 0, which divides at random.
        shares: (P,) of the parts; they add up to 1.
        rng: breaks ties.

    Returns:
        (U,) int64: the part of each unit.
    """
    sizes, labels = np.asarray(sizes, dtype=float), np.asarray(labels, dtype=float)
    columns = np.concatenate([sizes[:, None], labels], axis=1)
    columns = columns[:, columns.any(axis=0)]
    wanted = np.outer(shares, columns.sum(axis=0))
    tries = []
    for _ in range(_TRIES if labels.shape[1] else 1):
        parts = _assign_once(sizes, labels, shares, rng)
        got = np.zeros_like(wanted)
        np.add.at(got, parts, columns)
        missed = np.abs(got - wanted) / np.maximum(wanted, 1)
        tries.append((float(missed.mean()), parts))
    return min(tries, key=lambda found: found[0])[1]


def _assign_once(
    sizes: np.ndarray, labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    wanted = shares * sizes.sum()
    wanted_labels = np.outer(shares, labels.sum(axis=0))
    parts = np.full(len(sizes), -1)
    order = rng.permutation(len(sizes))
    # Large groups first: the small ones even out what they leave.
    order = order[np.argsort(-sizes[order], kind="stable")]
    left = (labels > 0).sum(axis=0)

    def put(unit: int, part: int) -> None:
        parts[unit] = part
        wanted[part] -= sizes[unit]
        wanted_labels[part] -= labels[unit]
        left[:] -= labels[unit] > 0

    while left.any():
        rarest = np.flatnonzero(left == left[left > 0].min())
        label = rarest[0] if len(rarest) == 1 else rng.choice(rarest)
        for unit in order[(labels[order, label] > 0) & (parts[order] < 0)]:
            put(unit, _most_wanted(wanted_labels[:, label], wanted, rng))
    for unit in order[parts[order] < 0]:
        put(unit, _most_wanted(wanted, wanted, rng))
    return parts


def _most_wanted(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> int:
    """The part that wants most of ``first``, among equals most of ``second``, or any of them."""
    best = np.flatnonzero(first >= first.max() - 1e-9)
    if len(best) > 1:
        best = best[second[best] >= second[best].max() - 1e-9]
    return int(best[0] if len(best) == 1 else rng.choice(best))
