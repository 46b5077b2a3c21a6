# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Anchors that fit boxes: sizes and aspect ratios, in the terms of Detectron2's anchor generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import ClusterError, kmeans2

__all__ = ["DEFAULT_RATIOS", "DEFAULT_SIZES", "Anchors", "anchor_fit", "suggest_anchors"]

DEFAULT_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
DEFAULT_RATIOS = (0.5, 1.0, 2.0)
_STRIDES = (4, 8, 16, 32, 64)  # of p2 … p6
_LEAST_GAIN = 0.01  # of the mean IoU; for less, Detectron2's anchors stay
_LEAST = 8.0  # pixels of an anchor on p2: two strides
_SAMPLE = 20000  # boxes that are looked at
_SPAN = 10.0  # between the least and greatest ratio: long, thin anchors fit little else


@dataclass
class Anchors:
    """
    Attributes:
        sizes: one for each of five FPN levels, square roots of areas in pixels of the training size.
        ratios: height / width.
        mean_iou: mean over the boxes of the IoU of the best anchor.
        recall: share of the boxes whose best anchor has an IoU of at least 0.5.
        what: where they come from: "default", "doubled", "k-means".
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    mean_iou: float
    recall: float
    what: str


def anchor_fit(sides: np.ndarray, sizes, ratios) -> tuple[float, float]:
    """How well anchors fit boxes: mean IoU of the best one, and the share with 0.5 and more.

    The centre of a box is, in each direction, a quarter of a stride beside that of the nearest anchor,
    which is the mean over all places.

    Args:
        sides: (N, 2) width, height in pixels of the training size.
        sizes: one for each of the levels of strides 4, 8, 16, 32, 64.
        ratios: height / width.
    """
    if not len(sides):
        return 0.0, 0.0
    best = np.zeros(len(sides))
    for size, stride in zip(sizes, _STRIDES):
        for ratio in ratios:
            anchor = np.array([size / ratio**0.5, size * ratio**0.5])
            beside = (sides + anchor) / 2 - stride / 4
            both = np.clip(np.minimum(np.minimum(sides, anchor), beside), 0, None).prod(axis=1)
            best = np.maximum(best, both / (sides.prod(axis=1) + size**2 - both))
    return float(best.mean()), float((best >= 0.5).mean())


def suggest_anchors(sides: np.ndarray) -> list[Anchors]:
    """Candidates, the suggested one first; Detectron2's own is among them.

    The others have the ratios that k-means finds in log(height / width), and sizes that k-means finds
    in log sqrt(width · height), or that are doubled from level to level, as strides are.

    Args:
        sides: (N, 2) width, height in pixels of the training size.
    """
    sides = np.asarray(sides, dtype=float).reshape(-1, 2)
    sides = sides[(sides > 0).all(axis=1)]
    if len(sides) > _SAMPLE:
        sides = sides[np.random.default_rng(0).choice(len(sides), _SAMPLE, replace=False)]
    default = Anchors(DEFAULT_SIZES, DEFAULT_RATIOS, *anchor_fit(sides, DEFAULT_SIZES, DEFAULT_RATIOS),
                      "default")  # fmt: skip
    if len(sides) < 2:
        return [default]
    ratios = _ratios(sides)
    size = np.sqrt(sides.prod(axis=1))
    candidates = [("k-means", _increasing(_centres(np.log(size), len(_STRIDES))))]
    firsts = np.geomspace(_LEAST, 128, 33)
    doubled = [tuple(float(first * 2**i) for i in range(len(_STRIDES))) for first in firsts]
    candidates.append(
        ("doubled", max(doubled, key=lambda sizes: anchor_fit(sides, sizes, ratios)[0]))
    )
    found = []
    for what, sizes in candidates:
        sizes = tuple(float(round(v)) for v in sizes)
        # Detectron2's ratios where others bring nothing: weights of published models fit them.
        usual = anchor_fit(sides, sizes, DEFAULT_RATIOS)
        own = anchor_fit(sides, sizes, ratios)
        better = own[0] >= usual[0] + _LEAST_GAIN
        found.append(
            Anchors(sizes, ratios if better else DEFAULT_RATIOS, *(own if better else usual), what)
        )
    best = max(found, key=lambda anchors: anchors.mean_iou)
    if best.mean_iou < default.mean_iou + _LEAST_GAIN:
        best = default
    return [best, *(a for a in (default, *found) if a is not best)]


def _centres(values: np.ndarray, number: int) -> np.ndarray:
    """Centres of k-means, exponentials of them, sorted; it begins at quantiles, so nothing is drawn."""
    start = np.quantile(values, (np.arange(number) + 0.5) / number)
    try:
        found = kmeans2(values[:, None], start[:, None], minit="matrix", missing="raise")[0][:, 0]
    except ClusterError:  # fewer different values than clusters
        found = start
    return np.exp(np.sort(found))


def _ratios(sides: np.ndarray) -> tuple[float, ...]:
    centres = _centres(np.log(sides[:, 1] / sides[:, 0]), 3).clip(_SPAN**-0.5, _SPAN**0.5)
    kept: list[float] = []
    for value in centres:
        if not kept or value > 1.15 * kept[-1]:
            kept.append(round(float(value), 2))
    return tuple(kept)


def _increasing(sizes: np.ndarray) -> tuple[float, ...]:
    """At least two strides each, and each level's larger than the one before."""
    found: list[float] = []
    for size, stride in zip(sizes, _STRIDES):
        found.append(max(float(size), 2.0 * stride, 1.25 * found[-1] if found else 0.0))
    return tuple(found)
